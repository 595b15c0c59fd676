package correlate

import (
	"slices"

	"fail2ban-loki-exporter/exporter/internal/fail2ban"
)

// found takes a failure. One that was read again after a start, with the time
// of one already counted, is the same failure (rules: re-reads are taken out as
// a multiset per failure time, and only for times before the start).
func (j *jail) found(t *track, ev *fail2ban.Event, at ms) {
	j.foundRun, j.foundLines = j.h.run.epoch+1, true
	when := at
	if !ev.FoundAt.IsZero() {
		when = msOf(ev.FoundAt)
	}
	r := t.failuresSince(min(at, when) - j.findWindow() - 60_000)
	if !ev.FoundAt.IsZero() && j.createdAt != 0 && when < j.createdAt && r.readAgain(when, j.epoch) {
		r.reread = at
		j.h.occur(at, "found", j.name, t.id, Reread)
		return
	}
	r.add(when, j.epoch)
	j.counts.Failures++
	j.h.occur(at, "found", j.name, t.id, "")
	j.observe(SawFailure, t, when)
	j.failedInGap(t, when)
	j.failedAgain(t, when)
	if t.lastRow != nil && t.state == idle {
		t.lastRow.NextFailure = Known(max(0, when-t.ended).duration())
		t.lastRow = nil
	}
	grace := span(j.h.e.o.BannedGrace)
	if t.state == active && at > t.since+grace && when > t.since+grace {
		j.counts.FailuresWhileBanned++
	}
}

// attempt takes `set J attempt X`: it leads to a ban as failures do, but
// nobody failed.
func (j *jail) attempt(t *track, ev *fail2ban.Event, at ms) {
	when := at
	if !ev.FoundAt.IsZero() {
		when = msOf(ev.FoundAt)
	}
	t.failuresSince(min(at, when)-j.findWindow()-60_000).add(when, j.epoch)
}

// failedInGap counts a failure while the server or the jail was down, whoever
// failed. A failure carries whole seconds; one in the second of the stop that
// was not read before it came after it.
func (j *jail) failedInGap(t *track, when ms) {
	for _, r := range j.h.restarts {
		if (r.scope == "server" || r.scope == j.name) && when/1000 >= r.stopped/1000 && when <= r.started {
			r.gapFailures++
			j.counts.GapFailures++
			j.observe(SawGapFailure, t, when)
			return
		}
	}
}

// failedAgain tells the restore that waits for it that its attacker is back.
func (j *jail) failedAgain(t *track, when ms) {
	w := t.restore
	if w == nil || w.lifted != 0 && when/1000 < w.lifted/1000 {
		return
	}
	if when <= w.at {
		w.row.GapFailures++
	}
	w.failed = true
}

func (j *jail) observe(k ObservationKind, t *track, at ms) {
	if j.h.e.o.Observe != nil {
		j.h.e.o.Observe(Observation{Kind: k, Host: j.h.name, Jail: j.name, ID: t.id, Time: at.time()})
	}
}

// failuresSince gives the id's failures, older ones dropped.
func (t *track) failuresSince(from ms) *recent {
	if t.recent == nil {
		t.recent = &recent{}
	}
	r := t.recent
	if len(r.fails) > 0 && r.fails[0].at < from {
		r.fails = slices.DeleteFunc(r.fails, func(f failure) bool { return f.at < from })
	}
	return r
}

func (r *recent) at(when ms) *failure {
	for i := len(r.fails) - 1; i >= 0; i-- {
		if r.fails[i].at == when {
			return &r.fails[i]
		}
	}
	return nil
}

// readAgain tells whether a failure of that second was counted in an earlier
// life and not yet read again in this one, and notes it.
func (r *recent) readAgain(when ms, epoch uint32) bool {
	f := r.at(when)
	if f == nil {
		return false
	}
	f.enter(epoch)
	if f.again >= f.before {
		return false
	}
	f.again++
	return true
}

func (f *failure) enter(epoch uint32) {
	if f.epoch != epoch {
		f.epoch, f.before, f.again = epoch, f.n, 0
	}
}

func (r *recent) add(when ms, epoch uint32) {
	f := r.at(when)
	if f == nil || f.used {
		if len(r.fails) >= maxFailures {
			r.fails = slices.Delete(r.fails, 0, 1)
		}
		if f == nil {
			r.fails = append(r.fails, failure{at: when, n: 1, epoch: epoch})
			return
		}
		// the second led to a ban already: what comes now is kept apart,
		// yet stays in one multiset with it
		f.enter(epoch)
		f.n++
		f.late++
		return
	}
	f.enter(epoch)
	f.n++
}

// fresh lists the failures not used by an earlier ban, from a time on.
func (r *recent) fresh(from, to ms) (out []failure) {
	if r == nil {
		return nil
	}
	for _, f := range r.fails {
		if f.at < from || f.at > to {
			continue
		}
		if f.used && f.late == 0 {
			continue
		}
		if f.used {
			f.n = f.late
		}
		out = append(out, f)
	}
	slices.SortStableFunc(out, func(a, b failure) int { return int(a.at - b.at) })
	return out
}

// life lists the failures that this life of the jail has logged, new or again.
func (r *recent) life(epoch uint32) (out []failure) {
	for _, f := range r.fails {
		if f.epoch == epoch {
			out = append(out, f)
		}
	}
	slices.SortStableFunc(out, func(a, b failure) int { return int(a.at - b.at) })
	return out
}

// use marks the failures up to a time as having led to a ban.
func (r *recent) use(to ms) {
	if r == nil {
		return
	}
	for i := range r.fails {
		if r.fails[i].at <= to {
			r.fails[i].used, r.fails[i].late = true, 0
		}
	}
}

func failuresIn(fs []failure) (n uint32) {
	for _, f := range fs {
		n += f.n
	}
	return n
}

// decisive is the time of the failure that filled maxRetry in this life of the
// jail (a start forgets its counters): the ban's time runs from it. Failures
// may be logged between it and the ban.
func (j *jail) decisive(fs []failure) ms {
	n := 0
	for _, f := range fs {
		if f.epoch == j.epoch {
			n += int(f.n - f.before + f.again)
		}
		if j.maxRetry > 0 && n >= j.maxRetry {
			return f.at
		}
	}
	if len(fs) > 0 {
		return fs[len(fs)-1].at
	}
	return 0
}
