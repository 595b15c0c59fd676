package correlate

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
