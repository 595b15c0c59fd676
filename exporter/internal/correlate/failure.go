package correlate

import (
	"math"
	"slices"

	"fail2ban-loki-exporter/exporter/internal/fail2ban"
)

// found takes a failure. One that was read again after a start, with the time
// of one already counted, is the same failure (rules: re-reads are taken out as
// a multiset per failure time, and only for times before the start).
func (j *jail) found(t *track, ev *fail2ban.Event, at ms) {
	j.foundRun, j.foundLines = j.h.run.epoch+1, true
	t.noteFailure(j)
	when := at
	if !ev.FoundAt.IsZero() {
		when, j.timed = msOf(ev.FoundAt), true
	}
	t.forget(min(at, when) - j.findWindow() - findSlack)
	if !ev.FoundAt.IsZero() && j.createdAt != 0 && when < j.createdAt && t.fails.readAgain(when, j.epoch) {
		t.waiting().reread = at
		j.h.occur(at, "found", j.name, t.id, Reread)
		return
	}
	t.fails.add(when, at, j.epoch)
	j.counts.Failures++
	j.h.occur(at, "found", j.name, t.id, "")
	j.observe(SawFailure, t, when)
	j.failedInGap(t, when)
	if w := t.wait; w != nil {
		w.restore.failedAgain(when)
		if at <= w.already {
			j.prolonged(t, w.already)
		}
		if w.lastRow != nil && t.state == idle {
			w.lastRow.NextFailure = Known(max(0, when-t.ended).duration())
			w.lastRow = nil
			t.tidy()
		}
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
	t.forget(min(at, when) - j.findWindow() - findSlack)
	t.fails.add(when, at, j.epoch)
}

// findSlack is how much longer than the find time failures are kept: their
// times are whole seconds, and lines come late.
const findSlack ms = 60_000

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
func (w *restoreLine) failedAgain(when ms) {
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

// forget drops the failures before a time, once they are half of those kept.
func (t *track) forget(from ms) {
	if n := len(t.fails); n > 0 && t.fails[n/2].at < from {
		t.fails = slices.Delete(t.fails, 0, t.fails.from(from))
	}
}

// from is the place of the first failure at or after a time.
func (fs failures) from(at ms) int {
	i := len(fs)
	for i > 0 && fs[i-1].at >= at {
		i--
	}
	return i
}

func (fs failures) at(when ms) *failure {
	if i := fs.from(when); i < len(fs) && fs[i].at == when {
		return &fs[i]
	}
	return nil
}

// readAgain tells whether a failure of that second was counted in an earlier
// life and not yet read again in this one, and notes it.
func (fs failures) readAgain(when ms, epoch uint32) bool {
	f := fs.at(when)
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

// maxFailures bounds the seconds kept of one id.
const maxFailures = 64

func (fs *failures) add(when, line ms, epoch uint32) {
	logged := uint16(min(max(0, line-when), math.MaxUint16))
	if f := fs.at(when); f != nil {
		f.enter(epoch)
		f.first, f.newest = min(f.first, logged), max(f.newest, logged)
		if f.n < math.MaxInt16 {
			f.n++
			if f.late != unused { // the second led to a ban already: what comes now is kept apart, yet stays in one multiset with it
				f.late++
			}
		}
		return
	}
	if len(*fs) >= maxFailures {
		*fs = slices.Delete(*fs, 0, maxFailures/4)
	}
	if *fs == nil {
		*fs = make(failures, 0, 1) // most ids fail in one second and are banned
	}
	*fs = slices.Insert(*fs, fs.from(when), failure{at: when, first: logged, newest: logged, n: 1, epoch: epoch, late: unused})
}

// fresh lists the failures not used by an earlier ban, from a time on.
func (fs failures) fresh(from, to ms) (out failures) {
	for _, f := range fs {
		if f.at < from || f.at > to || f.late == 0 {
			continue
		}
		if f.late != unused {
			f.n, f.before, f.again = uint16(f.late), 0, 0
		}
		out = append(out, f)
	}
	return out
}

// loggedBy is how many of a second's failures were logged by a time: the attacker
// went on while the ban was made. Of a second in whose midst the time lies, all
// but the newest.
func (f *failure) loggedBy(at ms) uint16 {
	switch {
	case f.at+ms(f.newest) <= at:
		return f.n
	case f.n > 1 && f.at+ms(f.first) <= at:
		return f.n - 1
	}
	return 0
}

// life lists the failures from a time on that this life of the jail has
// logged, new or again.
func (fs failures) life(epoch uint32, from ms) (out failures) {
	for _, f := range fs {
		if f.epoch == epoch && f.at >= from {
			out = append(out, f)
		}
	}
	return out
}

// since lists the failures after a lift that led to no ban.
func (fs failures) since(lifted ms) (out failures) {
	for _, f := range fs {
		if f.at/1000 >= lifted/1000 && f.late == unused {
			out = append(out, f)
		}
	}
	return out
}

// use marks failures as having led to a ban.
func (fs failures) use(fresh failures) {
	for _, u := range fresh {
		f := fs.at(u.at)
		if f == nil {
			continue
		}
		all := int16(f.n)
		if f.late != unused {
			all = f.late
		}
		f.late = all - int16(u.n)
	}
}

func (fs failures) count() (n uint32) {
	for _, f := range fs {
		n += uint32(f.n)
	}
	return n
}

// decisive is the time of the failure that filled maxRetry in this life of the
// jail (a start forgets its counters): the ban's time runs from it. Failures
// may be logged between it and the ban.
func (j *jail) decisive(fs failures) ms {
	n := 0
	for i := range fs {
		n += j.counted(&fs[i])
		if j.maxRetry > 0 && n >= j.maxRetry {
			return fs[i].at
		}
	}
	if len(fs) > 0 {
		return fs[len(fs)-1].at
	}
	return 0
}

// counted is how many of a second's failures this life of the jail has counted.
func (j *jail) counted(f *failure) int {
	if f.epoch != j.epoch {
		return 0
	}
	return int(f.n) - int(f.before) + int(f.again)
}

// ledTo picks the failures that led to a ban at a time: those logged before it,
// and those logged after it only where these alone do not suffice. Threads log
// side by side, so an instant either way is in no order.
func (j *jail) ledTo(t *track, at ms) failures {
	all := t.fails.fresh(at-j.findWindow()-1000, at)
	n, before := 0, 0
	for i := range all {
		f := all[i]
		if f.n = f.loggedBy(at); f.n > 0 {
			before++
			n += j.counted(&f)
		}
	}
	if before > 0 && (j.maxRetry == 0 || n >= j.maxRetry || !j.enough(all)) {
		all = slices.DeleteFunc(all, func(f failure) bool { return f.loggedBy(at) == 0 })
		for i := range all {
			all[i].n = all[i].loggedBy(at)
		}
	}
	return j.untilFull(all)
}

func (j *jail) enough(fs failures) bool {
	n := 0
	for i := range fs {
		n += j.counted(&fs[i])
	}
	return n >= j.maxRetry
}

// untilFull cuts the failures after the one that filled maxRetry: fail2ban
// starts to count anew with the next.
func (j *jail) untilFull(fs failures) failures {
	n := 0
	for i := range fs {
		n += j.counted(&fs[i])
		if over := n - j.maxRetry; j.maxRetry > 0 && over >= 0 {
			over %= j.maxRetry // as many again were swallowed: the id was about to be banned
			fs[i].n -= uint16(min(over, int(fs[i].n)-1))
			return fs[:i+1]
		}
	}
	return fs
}
