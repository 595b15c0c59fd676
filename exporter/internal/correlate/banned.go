package correlate

import "slices"

// Banned tells of those ids that are wanted where they are banned now, by host
// and jail.
func (e *Engine) Banned(wanted map[string]bool) map[string][]Place {
	out := map[string][]Place{}
	note := func(h *host, j *jail, id string, t *track) {
		if t != nil && t.isBanned() {
			out[id] = append(out[id], Place{Host: h.name, Jail: j.name})
		}
	}
	for _, name := range e.Hosts() {
		h := e.hosts[name]
		for _, j := range h.sortedJails() {
			if len(j.tracks) < len(wanted) {
				for id, t := range j.tracks {
					if wanted[id] {
						note(h, j, id, t)
					}
				}
				continue
			}
			for id := range wanted {
				note(h, j, id, j.tracks[id])
			}
		}
	}
	return out
}

// isBanned tells whether the id is banned now, by a ban that has been judged or
// by one that waits for it.
func (t *track) isBanned() bool { return t.state == active || t.waits().ban != nil }

// WaitingRestores are the restores that are not said yet, since it may still
// show that their attackers are back, as they are known now; no more than the
// newest of them. They are in no order.
func (e *Engine) WaitingRestores(most int) (out []Restore) {
	for _, name := range e.Hosts() {
		for _, j := range e.hosts[name].sortedJails() {
			for _, w := range j.restores {
				row := *w.row
				if j.foundLines && w.failed {
					row.FailedAgain = Known(true)
				}
				out = append(out, row)
			}
		}
	}
	if len(out) > most {
		slices.SortFunc(out, func(a, b Restore) int { return b.Time.Compare(a.Time) })
		out = slices.Clone(out[:most])
	}
	return out
}
