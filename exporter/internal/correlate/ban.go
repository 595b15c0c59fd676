package correlate

import (
	"slices"

	"fail2ban-loki-exporter/exporter/internal/fail2ban"
)

// banLine is a plain `Ban` that waits for the lines around it: an increase
// that tells a re-read, a failure that was logged an instant late.
type banLine struct {
	at     ms
	seq    uint64
	fresh  []failure
	reread ms   // a failure that was read again before it, in this life of the jail; 0 for none
	life   bool // a failure was logged in this life of the jail
	found  bool // this jail had logged a Found earlier in the run
	raised bool // `Increase Ban` followed
	bad    bool // `IP X is bad` was said
	until  ms
	own    ms
}

// banned takes a plain `Ban`.
func (j *jail) banned(t *track, at ms) {
	j.resolve(t)
	if fail2ban.LegacyVersion(j.h.version) && j.legacyRestore(t, at) {
		j.restored(t, at, "ban")
		return
	}
	j.touched = max(j.touched, at)
	b := &banLine{at: at, seq: j.h.seq, found: j.foundRun == j.h.run.epoch+1}
	window := at - span(j.h.e.o.OrderWindow)
	if r := t.recent; r != nil {
		b.fresh = r.fresh(at-j.findWindow()-1000, at)
		if r.reread != 0 && r.reread >= j.createdAt {
			b.reread = j.decisive(r.life(j.epoch))
		}
		b.life = b.reread != 0 || slices.ContainsFunc(b.fresh, func(f failure) bool { return f.epoch == j.epoch })
		b.bad = r.bad != 0 && r.bad >= window
		if x := r.raise; x != nil && x.at >= window {
			b.raised, b.until, b.own = true, x.until, x.own
		}
		r.raise = nil
		r.use(at)
	}
	t.ban = b
	j.waiting = append(j.waiting, t)
	j.wake(at + span(j.h.e.o.OrderWindow) + 1)
}

// legacyRestore tells a restored ban of 0.8 and 0.9, which print it as a plain
// `Ban` (rule 12): in the flood after a jail's start, of an id that was active
// at the stop or, where this jail's log shows failures at all, had none.
func (j *jail) legacyRestore(t *track, at ms) bool {
	if j.startedAt == 0 || at > j.touched+span(j.h.e.o.LostSettle) || j.h.run.epoch <= 1 && !j.stoppedYet && j.h.firstRun() {
		return false
	}
	fresh := t.recent.fresh(at-j.findWindow()-1000, at)
	if t.state == suspended {
		return len(fresh) == 0 || fresh[len(fresh)-1].at < t.lifted
	}
	return j.foundLines && len(fresh) == 0 && t.state == idle
}

// raised takes `Increase Ban`, which may come an instant before its `Ban`.
func (j *jail) raised(t *track, ev *fail2ban.Event, at ms) {
	until, own := msOf(ev.Until), span(ev.BanTime)
	if ev.BanTime == fail2ban.Permanent {
		until, own = never, permanent
	}
	switch {
	case t.ban != nil:
		t.ban.raised, t.ban.until, t.ban.own = true, until, own
	case t.state == active:
		t.prolong(until, own)
		j.nextEnd = 0
	default:
		t.failuresSince(0).raise = &raise{at: at, until: until, own: own}
	}
}

func (t *track) prolong(until, own ms) {
	t.until = until
	if own != 0 {
		t.own = own
	}
	t.source, t.follows = fromIncrease, false
}

func (j *jail) bad(t *track, at ms) {
	if t.ban != nil {
		t.ban.bad = true
		return
	}
	t.failuresSince(0).bad = at
}

// prolonged takes `already banned`: failures while banned move the ban's end.
func (j *jail) prolonged(t *track, at ms) {
	if t.ban != nil {
		j.settleBan(t)
	}
	if t.state != active || t.recent == nil {
		return
	}
	fs := t.recent.fresh(t.base, at)
	if len(fs) == 0 {
		return
	}
	last := j.decisive(fs)
	if last <= t.base {
		return
	}
	t.recent.use(last)
	t.again = last
	j.nextEnd = 0
}

// settleWaiting settles the bans and restores that have waited long enough.
func (j *jail) settleWaiting(to ms) {
	window := span(j.h.e.o.OrderWindow)
	n := 0
	for _, t := range j.waiting {
		if t.ban == nil {
			n++
			continue
		}
		if t.ban.at+window >= to {
			j.wake(t.ban.at + window + 1)
			break
		}
		j.settleBan(t)
		n++
	}
	j.waiting = dropFront(j.waiting, n)
	n = 0
	for _, w := range j.restores {
		if w.due >= to {
			j.wake(w.due + 1)
			break
		}
		j.sayRestore(w)
		n++
	}
	j.restores = dropFront(j.restores, n)
}

func dropFront[T any](s []T, n int) []T {
	if n == len(s) {
		return nil
	}
	return s[n:]
}

// settleBan decides what a plain `Ban` was and opens or continues a ban.
func (j *jail) settleBan(t *track) {
	b := t.ban
	t.ban = nil
	if len(b.fresh) == 0 && t.recent != nil { // its failures were logged an instant after it
		b.fresh = t.recent.fresh(b.at-j.findWindow()-1000, b.at)
		b.life = b.life || len(b.fresh) > 0
		t.recent.use(b.at)
	}
	if end := t.end(j); t.state != idle && end != 0 && end <= j.firstRenewal(t, b) {
		j.close(t, end, EndedExpected, Likely) // it had run out before these failures
	}
	o, c := j.originOf(t, b)
	j.h.occurAt(b.at, b.seq, "ban", j.name, t.id, originCauses[o], c)
	if o == originReread {
		j.counts.Reread++
		if t.state == idle {
			j.open(t, b, o, c)
			return
		}
		j.reread(t, b)
		return
	}
	j.trueBan(t, b, o, c)
}

// reread continues a ban whose offence was read again.
func (j *jail) reread(t *track, b *banLine) {
	if t.state == suspended {
		j.resume(t, b.at)
		t.settleRestart(func(r *restart) { r.restored++ })
	}
	if b.raised && b.bad { // without "is bad" the increase is not kept
		t.prolong(b.until, b.own)
	}
	j.nextEnd = 0
}

// firstRenewal is when what led to this ban began, as far as it shows.
func (j *jail) firstRenewal(t *track, b *banLine) ms {
	for _, f := range b.fresh {
		if t.state == active || f.at/1000 >= t.lifted/1000 {
			return f.at
		}
	}
	if len(b.fresh) == 0 && b.reread == 0 {
		return b.at
	}
	return 0
}

// originOf is the verdict on a plain `Ban`.
func (j *jail) originOf(t *track, b *banLine) (origin, Confidence) {
	if b.raised && !b.bad && b.until != never {
		// fail2ban's observer found the ban in its database already: the
		// same offence read again, or counted in another jail
		return originReread, Likely
	}
	switch t.state {
	case suspended:
		for _, f := range b.fresh {
			if f.at/1000 >= t.lifted/1000 {
				return originGap, Certain
			}
		}
		if b.reread != 0 || len(b.fresh) > 0 {
			return originReread, Certain
		}
	case active:
		if b.reread != 0 || len(b.fresh) == 0 && b.found {
			return originReread, Likely
		}
		return originUnknown, Unsure // a running server bans no one twice: lines are missing
	default:
		if len(b.fresh) > 0 && (b.life || j.startedAt == 0 || !b.found) {
			return originNew, Certain
		}
		if b.reread != 0 {
			return originReread, Certain
		}
	}
	if b.found {
		return originManual, Likely
	}
	return originUnknown, Unsure
}

// trueBan counts and opens a ban.
func (j *jail) trueBan(t *track, b *banLine, o origin, c Confidence) {
	delay := ms(-1)
	prevEnd, prevBy, prevTime := t.ended, liftNames[t.endedBy], t.endTime
	switch {
	case o == originGap:
		delay, prevEnd, prevBy = 0, t.lifted, EndedGap
		prevTime, _ = t.banTime(j)
		j.observeGap(t, b.at)
		t.settleRestart(func(r *restart) { r.restored++ })
		j.gapBan(t, b, c)
		j.close(t, t.lifted, EndedGap, Certain)
	case t.state != idle:
		at := t.lifted
		if t.state == active {
			at = b.at
		}
		j.close(t, at, EndedUnknown, Unsure)
	case t.endedBy == byExpiry || t.endedBy == byManual:
		delay = max(0, b.at-t.ended)
	}
	j.counts.Bans[banOrigin(o)]++
	t.bans++
	j.open(t, b, o, c)
	t.delay = delay
	j.observeBan(t, b.at, delay)
	if o == originNew && delay >= 0 || o == originGap {
		j.reoffended(t, b, delay, prevEnd, prevBy, prevTime)
	}
}

// reoffended says a re-offence, and an unban by hand that came too early.
func (j *jail) reoffended(t *track, b *banLine, delay, prevEnd ms, prevBy string, prevTime ms) {
	premature := prevBy == EndedManual && delay <= span(j.h.e.o.PrematureWindow)
	j.counts.Reoffences++
	j.reoffence.observe(delay)
	row := &Reoffence{
		Host: j.h.name, Jail: j.name, ID: t.id, PreviousEnded: prevEnd.time(), PreviousEndedBy: prevBy,
		Time: b.at.time(), Delay: delay.duration(), Premature: premature, PreviousBanTime: maybeBanTime(prevTime),
	}
	j.say(Finding{Kind: FindingReoffence, Time: row.Time, Seq: b.seq, ID: t.id, Reoffence: row})
	if premature {
		j.counts.PrematureUnbans++
		j.say(Finding{Kind: FindingPrematureUnban, Time: row.Time, Seq: b.seq, ID: t.id, Reoffence: row})
	}
}

// open begins a ban.
func (j *jail) open(t *track, b *banLine, o origin, c Confidence) {
	t.state, t.origin, t.certain = active, o, c == Certain
	t.started, t.since = b.at, b.at
	t.base = j.decisive(b.fresh)
	if o == originReread && b.reread != 0 {
		t.base = b.reread
	}
	if t.base == 0 || o == originManual {
		t.base = b.at / 1000 * 1000
	}
	t.own, t.source = j.presentBanTime()
	t.follows, t.until, t.again = true, 0, 0
	t.banned, t.restores, t.delay = 0, 0, -1
	t.failures = failuresIn(b.fresh)
	t.lifted, t.liftedBy, t.absent = 0, byUnknown, false
	t.lastRow = nil
	if b.raised {
		t.prolong(b.until, b.own)
	}
	if end := t.end(j); end != 0 && end != never {
		j.nextEnd = min(j.nextEnd, end)
		j.wake(end + span(j.h.e.o.ExpectedEndGrace) + 1)
	}
	if j.h.e.o.Open && o != originReread {
		j.say(Finding{Kind: FindingBan, Time: t.started.time(), Seq: b.seq, ID: t.id, Ban: j.row(t, 0, EndedOpen, confidence(t.certain))})
	}
}

func confidence(certain bool) Confidence {
	if certain {
		return Certain
	}
	return Likely
}

func (j *jail) observeBan(t *track, at, delay ms) {
	if j.h.e.o.Observe != nil {
		j.h.e.o.Observe(Observation{Kind: SawBan, Host: j.h.name, Jail: j.name, ID: t.id, Time: at.time(), Delay: maybeSeconds(delay)})
	}
}

// close ends a ban for good and says its row.
func (j *jail) close(t *track, at ms, by string, c Confidence) {
	if t.state == idle {
		return
	}
	row := j.row(t, at, by, c)
	if t.state == suspended {
		j.suspended--
		t.settleRestart(func(r *restart) {
			switch by {
			case EndedLost:
				r.lost++
			case EndedExpected, EndedManual:
				r.over++
			}
		})
	}
	t.endTime, _ = t.banTime(j)
	t.freeze(j)
	t.state, t.ended, t.endedBy = idle, at, byUnknown
	switch by {
	case EndedExpired:
		t.endedBy = byExpiry
	case EndedManual:
		t.endedBy = byManual
	}
	if j.h.e.o.Rows {
		t.lastRow = row
	}
	j.say(Finding{Kind: FindingBan, Time: at.time(), Seq: j.h.seq, ID: t.id, Ban: row})
}

// row is the ban as a row; ended 0 says that it is still open.
func (j *jail) row(t *track, ended ms, by string, c Confidence) *Ban {
	d, src := t.banTime(j)
	banned := t.banned
	until := ended
	if ended == 0 {
		until = j.h.clock
	}
	if t.state == active {
		banned += max(0, until-t.since)
	}
	gap := ms(0)
	if t.started != 0 {
		gap = max(0, until-t.started-banned)
	}
	return &Ban{
		Host: j.h.name, Jail: j.name, ID: t.id, Started: t.started.time(), Ended: ended.time(), EndedBy: by, Confidence: c,
		Origin: originCauses[t.origin], BanTime: maybeBanTime(d), BanTimeSource: sourceNames[src], PlannedEnd: t.plannedEnd(j),
		Banned: banned.duration(), Gap: gap.duration(), Restores: int(t.restores), Failures: int(t.failures),
		Count: int(t.bans), Reoffence: maybeSeconds(t.delay),
	}
}

func (j *jail) say(f Finding) {
	f.Host, f.Jail = j.h.name, j.name
	j.h.e.say(f)
}

// banOrigin is the origin's place in BanOrigins.
func banOrigin(o origin) int {
	switch o {
	case originNew:
		return 0
	case originGap:
		return 1
	case originManual:
		return 2
	}
	return 3
}
