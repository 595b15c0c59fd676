package correlate

import (
	"slices"
	"strings"
)

// Counters never fall, also where a history that was read again shows that
// something had been told wrongly. What they were shown beyond what is known
// now is kept as an offset: a Report of differences.

// Behind gives by how much counters of this report are below those that were
// shown, and how many verdicts were taken back: those of bans, restores,
// unbans and lost bans that are not there any more.
func (r *Report) Behind(shown *Report) (offsets Report, back uint64) {
	for i := range shown.Hosts {
		was := &shown.Hosts[i]
		is := r.host(was.Host)
		off := HostReport{Host: was.Host, Restarts: map[string]uint64{}}
		for kind, n := range was.Restarts {
			if n > is.Restarts[kind] {
				off.Restarts[kind] = n - is.Restarts[kind]
				back += off.Restarts[kind]
			}
		}
		for k := range was.Jails {
			j := offsetOf(is.jail(was.Jails[k].Jail), &was.Jails[k])
			back += j.Counts.verdicts()
			off.Jails = append(off.Jails, j)
		}
		offsets.Hosts = append(offsets.Hosts, off)
	}
	return offsets, back
}

// Raise adds offsets.
func (r *Report) Raise(offsets *Report) {
	for i := range offsets.Hosts {
		off := &offsets.Hosts[i]
		at, ok := slices.BinarySearchFunc(r.Hosts, off.Host, HostReport.compare)
		if !ok {
			continue // gone from the log, so no series shows it
		}
		h := &r.Hosts[at]
		for kind, n := range off.Restarts {
			h.Restarts[kind] += n
		}
		for k := range off.Jails {
			at, ok := slices.BinarySearchFunc(h.Jails, off.Jails[k].Jail, JailReport.compare)
			if !ok {
				continue
			}
			j := &h.Jails[at]
			j.Counts.Add(&off.Jails[k].Counts)
			j.GapSeconds.Add(&off.Jails[k].GapSeconds)
			j.Reoffence.Add(&off.Jails[k].Reoffence)
		}
	}
}

func (h HostReport) compare(name string) int { return strings.Compare(h.Host, name) }
func (j JailReport) compare(name string) int { return strings.Compare(j.Jail, name) }

func (r *Report) host(name string) *HostReport {
	if i, ok := slices.BinarySearchFunc(r.Hosts, name, HostReport.compare); ok {
		return &r.Hosts[i]
	}
	return &HostReport{}
}

func (h *HostReport) jail(name string) *JailReport {
	if i, ok := slices.BinarySearchFunc(h.Jails, name, JailReport.compare); ok {
		return &h.Jails[i]
	}
	return &JailReport{}
}

func offsetOf(is, was *JailReport) JailReport {
	off := JailReport{Jail: was.Jail, Counts: was.Counts, GapSeconds: was.GapSeconds.clone(), Reoffence: was.Reoffence.clone()}
	less, than := off.Counts.all(), is.Counts
	for i, n := range than.all() {
		*less[i] -= min(*less[i], *n)
	}
	off.GapSeconds.less(&is.GapSeconds)
	off.Reoffence.less(&is.Reoffence)
	return off
}

// all points to each of the counters.
func (c *Counts) all() (out []*uint64) {
	for _, group := range [][]uint64{c.Verbs[:], c.Bans[:], c.Restored[:], c.Unbans[:]} {
		for i := range group {
			out = append(out, &group[i])
		}
	}
	return append(out, &c.Failures, &c.Reread, &c.Lost, &c.GapFailures, &c.Reoffences, &c.PrematureUnbans, &c.FailuresWhileBanned, &c.ActionErrors)
}

// verdicts counts what is a verdict and not a line.
func (c *Counts) verdicts() uint64 {
	return sum(c.Bans[:]) + sum(c.Restored[:]) + sum(c.Unbans[:]) + c.Reread + c.Lost
}
