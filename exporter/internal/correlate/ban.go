package correlate

import (
	"slices"
	"time"

	"fail2ban-loki-exporter/exporter/internal/fail2ban"
)

// banLine is a plain `Ban` that waits for the lines around it: an increase
// that tells a re-read, a failure that was logged an instant late.
type banLine struct {
	t      *track
	at     ms
	seq    uint64
	fresh  failures
	reread ms   // a failure that was read again before it, in this life of the jail; 0 for none
	life   bool // a failure was logged in this life of the jail
	found  bool // this jail had logged a Found earlier in the run
	raised bool // `Increase Ban` followed
	bad    bool // `IP X is bad` was said
	known  bool // a failure was said to be of an id with earlier bans
	until  ms
	own    ms
	line   Line
}

// banned takes a plain `Ban`.
func (j *jail) banned(t *track, at ms) {
	inverted := j.resolveBefore(t, at)
	if fail2ban.LegacyVersion(j.h.version) && j.legacyRestore(t, at) {
		j.restored(t, at, "ban")
		return
	}
	j.touched = max(j.touched, at)
	b := &banLine{t: t, at: at, seq: j.h.seq, found: j.foundRun == j.h.run.epoch+1, line: j.h.line}
	t.waiting().ban = b
	if inverted {
		j.banBeforeLift(b)
		return
	}
	j.waiting = append(j.waiting, b)
	j.wake(at + span(j.h.e.o.OrderWindow) + 1)
}

// takeHints uses up what the lines around a ban said of it.
func (j *jail) takeHints(t *track, b *banLine) {
	w := t.wait
	if w == nil {
		return
	}
	window := b.at - span(j.h.e.o.OrderWindow)
	if w.reread != 0 && w.reread >= j.createdAt && w.reread <= b.at+span(j.h.e.o.OrderWindow) {
		b.reread = j.decisive(t.fails.life(j.epoch, b.at-j.findWindow()-findSlack))
	}
	b.known = w.known != 0 && w.known >= b.at-j.findWindow()
	b.bad = b.bad || w.bad != 0 && w.bad >= window
	if x := w.raise; x != nil && x.at >= window && !b.raised {
		b.raised, b.until, b.own = true, x.until, x.own
	}
	w.reread, w.bad, w.known, w.raise = 0, 0, 0, nil
}

// resolveBefore settles what waits for this id before a ban or a restore at a
// time. An unban of a later time stood after it, though its line came first; it
// tells whether one has lifted the id already.
func (j *jail) resolveBefore(t *track, at ms) (inverted bool) {
	window := span(j.h.e.o.OrderWindow)
	if t.state == suspended && t.started == 0 && t.liftRun == j.h.run.epoch && t.liftEpoch == j.epoch && at < t.lifted && t.lifted-at <= window {
		return true
	}
	if u := t.waits().unban; u != nil && u.at > at && t.state != active {
		if b := t.wait.ban; b != nil {
			j.settleBan(t)
		}
		return false
	}
	j.resolve(t)
	return false
}

// banBeforeLift takes a ban whose line came an instant after that of the stop
// that lifted it.
func (j *jail) banBeforeLift(b *banLine) {
	t := b.t
	lifted, by := t.lifted, t.liftedBy
	j.setState(t, idle)
	j.settleBan(t)
	if t.state == active {
		j.suspend(t, lifted, by)
	}
}

// legacyRestore tells a restored ban of 0.8 and 0.9, which print it as a plain
// `Ban` (rule 12): in the flood after a jail's start, of an id that was active
// at the stop or, where this jail's log shows failures at all, had none.
func (j *jail) legacyRestore(t *track, at ms) bool {
	if j.startedAt == 0 || at > j.touched+span(j.h.e.o.LostSettle) || j.h.run.epoch <= 1 && !j.stoppedYet && j.h.firstRun() {
		return false
	}
	fresh := t.fails.fresh(at-j.findWindow()-1000, at)
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
	switch b := t.waits().ban; {
	case b != nil:
		b.raised, b.until, b.own = true, until, own
	case t.state == active:
		t.prolong(until, own)
		j.plan(t)
	default:
		t.waiting().raise = &raise{at: at, until: until, own: own}
	}
	t.noteRaise(j)
}

func (t *track) prolong(until, own ms) {
	t.until = until
	if own != 0 {
		t.own = own
	}
	t.source, t.follows = fromIncrease, false
}

func (j *jail) bad(t *track, at ms) {
	t.noteRaise(j)
	if b := t.waits().ban; b != nil {
		b.bad = true
		return
	}
	t.waiting().bad = at
}

// prolonged takes `already banned`: failures while banned move the ban's end.
func (j *jail) prolonged(t *track, at ms) {
	if t.waits().ban != nil {
		j.settleBan(t)
	}
	if t.state != active {
		return
	}
	t.waiting().already = at
	fs := t.fails.fresh(t.base, at)
	if len(fs) == 0 {
		return
	}
	last := j.decisive(fs)
	if last <= t.base {
		return
	}
	enough := j.maxRetry > 0 && j.enough(fs)
	if enough {
		t.wait.already = 0 // what comes late is not its
	}
	if known := t.wait.known; enough || j.maxRetry == 0 || known != 0 && known >= at-j.findWindow() {
		t.fails.use(j.untilFull(fs))
	}
	t.wait.again = last
	j.plan(t)
}

// settleWaiting settles the bans and restores that have waited long enough.
func (j *jail) settleWaiting(to ms) {
	window := span(j.h.e.o.OrderWindow)
	n := 0
	for _, b := range j.waiting {
		if b.t.waits().ban == b {
			if b.at+window >= to {
				j.wake(b.at + window + 1)
				break
			}
			j.settleBan(b.t)
		}
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
	b := t.wait.ban
	t.wait.ban = nil
	defer t.tidy()
	b.fresh = j.ledTo(t, b.at)
	j.takeHints(t, b)
	b.life = b.reread != 0 || slices.ContainsFunc(b.fresh, func(f failure) bool { return f.epoch == j.epoch })
	t.fails.use(b.fresh)
	if end := t.end(j); t.state != idle && end != 0 && end <= j.firstRenewal(t, b) {
		j.closeExpected(t, end) // it had run out before these failures
	}
	o, c := j.originOf(t, b)
	proof := j.banProof(t, b, o)
	j.h.verdict(b.at, b.seq, Occurrence{Event: "ban", Jail: j.name, ID: t.id, Cause: originCauses[o], Confidence: c}, proof)
	t.noteBan(j, proof)
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
	if b.reread > t.base && t.until == 0 { // it runs from what was read again
		t.base, t.exact = b.reread, j.timed
	}
	if b.raised && b.bad { // without "is bad" the increase is not kept
		t.prolong(b.until, b.own)
	}
	j.plan(t)
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
	if b.raised && !b.bad && b.until != never && (j.foundLines || j.h.informed) { // "is bad" is logged where Found lines are
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
		if b.reread != 0 || len(b.fresh) > 0 && (b.life || !b.found) {
			return originReread, Certain
		}
	case active:
		if b.reread != 0 || len(b.fresh) == 0 && b.found {
			return originReread, Likely
		}
		return originUnknown, Unsure // a running server bans no one twice: lines are missing
	default:
		if len(b.fresh) > 0 && (b.life || j.startedAt == 0 || !b.found) {
			switch {
			case !j.tooFew(b):
				return originNew, Certain
			case b.reread != 0:
				return originReread, Certain
			}
			return originManual, Likely
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

// tooFew tells a ban that the failures before it do not explain: the jail counts
// to maxRetry, and had not got there. An id that is known for earlier bans needs
// fewer; the observer says so.
func (j *jail) tooFew(b *banLine) bool {
	n := 0
	for i := range b.fresh {
		n += j.counted(&b.fresh[i])
	}
	return b.found && !b.raised && !b.bad && !b.known && n < j.maxRetry && j.startedAt != 0
}

// trueBan counts and opens a ban.
func (j *jail) trueBan(t *track, b *banLine, o origin, c Confidence) {
	delay := ms(-1)
	prevEnd, prevBy, prevTime := t.ended, liftNames[t.endedBy], t.own
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
	switch {
	case o == originGap:
		t.came = cameAtOnce
	case delay >= 0:
		t.came = cameLater
	}
	j.observeBan(t, b.at, delay, o)
	if o == originNew && delay >= 0 || o == originGap {
		j.reoffended(t, b, delay, prevEnd, prevBy, prevTime)
	}
}

// reoffended says a re-offence, and an unban by hand that came too early.
func (j *jail) reoffended(t *track, b *banLine, delay, prevEnd ms, prevBy string, prevTime ms) {
	premature := prevBy == EndedManual && delay <= span(j.h.e.o.PrematureWindow)
	j.counts.Reoffences++
	j.reoffence.Observe(delay.duration())
	row := &Reoffence{
		Host: j.h.name, Jail: j.name, ID: t.id, PreviousEnded: prevEnd.time(), PreviousEndedBy: prevBy,
		Time: b.at.time(), Delay: delay.duration(), Premature: premature, PreviousBanTime: maybeBanTime(prevTime),
	}
	proof := j.reoffenceProof(t)
	j.say(Finding{Kind: FindingReoffence, Time: row.Time, Seq: b.seq, ID: t.id, Reoffence: row, Proof: proof})
	if premature {
		j.counts.PrematureUnbans++
		j.say(Finding{Kind: FindingPrematureUnban, Time: row.Time, Seq: b.seq, ID: t.id, Reoffence: row, Proof: proof})
	}
}

// open begins a ban.
func (j *jail) open(t *track, b *banLine, o origin, c Confidence) {
	j.setState(t, active)
	t.origin, t.certain = o, c == Certain
	t.started, t.since = b.at, b.at
	t.base = j.decisive(b.fresh)
	if o == originReread && b.reread != 0 {
		t.base = b.reread
	}
	t.exact = j.timed && t.base != 0
	if t.base == 0 || o == originManual {
		t.base, t.exact = b.at/1000*1000, o == originManual
	}
	t.own, t.source = j.presentBanTime()
	t.follows, t.until = true, 0
	t.banned, t.restores, t.came = 0, 0, cameFirst
	t.failures = b.fresh.count()
	t.lifted, t.liftedBy, t.absent = 0, byUnknown, false
	if w := t.wait; w != nil {
		w.lastRow, w.again, w.already = nil, 0, 0
	}
	if b.raised {
		t.prolong(b.until, b.own)
	}
	j.plan(t)
	if j.h.e.o.Open && o != originReread {
		j.say(Finding{Kind: FindingBan, Time: t.started.time(), Seq: b.seq, ID: t.id, Ban: j.row(t, 0, EndedOpen, confidence(t.certain)), Proof: t.banLines()})
	}
}

func confidence(certain bool) Confidence {
	if certain {
		return Certain
	}
	return Likely
}

func (j *jail) observeBan(t *track, at, delay ms, o origin) {
	if j.h.e.o.Observe != nil {
		j.h.e.o.Observe(Observation{
			Kind: SawBan, Host: j.h.name, Jail: j.name, ID: t.id, Time: at.time(), Delay: maybeSeconds(delay), Manual: o == originManual,
		})
	}
}

// close ends a ban for good and says its row; nil where none ran.
func (j *jail) close(t *track, at ms, by string, c Confidence) *Ban {
	if t.state == idle {
		return nil
	}
	row := j.row(t, at, by, c)
	if t.state == suspended {
		t.settleRestart(func(r *restart) {
			switch by {
			case EndedLost:
				r.lost++
			case EndedExpected, EndedManual:
				r.over++
			}
		})
	}
	t.own, _ = t.banTime(j)
	t.freeze(j)
	j.setState(t, idle)
	t.ended, t.endedBy = at, byUnknown
	switch by {
	case EndedExpired:
		t.endedBy = byExpiry
	case EndedManual:
		t.endedBy = byManual
	}
	if j.h.e.o.Observe != nil {
		j.h.e.o.Observe(Observation{Kind: SawEnd, Host: j.h.name, Jail: j.name, ID: t.id, Time: at.time(), True: t.endedBy != byUnknown})
	}
	if t.wait != nil {
		t.wait.again, t.wait.already = 0, 0
	}
	if j.h.e.o.Rows {
		t.waiting().lastRow = row
	}
	j.say(Finding{Kind: FindingBan, Time: at.time(), Seq: j.h.seq, ID: t.id, Ban: row, Proof: j.endProof(t, by)})
	t.tidy()
	return row
}

// row is the ban as a row; ended 0 says that it is still open.
func (j *jail) row(t *track, ended ms, by string, c Confidence) *Ban {
	d, src := t.banTime(j)
	banned := t.banned
	until := ended
	if ended == 0 {
		until = j.h.clock
	}
	if t.state == active && t.since != 0 {
		banned += max(0, until-t.since)
	}
	gap := ms(0)
	if t.started != 0 {
		banned = min(banned, max(0, until-t.started)) // clocks step back
		gap = max(0, until-t.started-banned)
	}
	var reoffence Maybe[time.Duration]
	switch t.came {
	case cameAtOnce:
		reoffence = Known(time.Duration(0))
	case cameLater:
		reoffence = Known(max(0, t.started-t.ended).duration())
	}
	return &Ban{
		Host: j.h.name, Jail: j.name, ID: t.id, Started: t.started.time(), Ended: ended.time(), EndedBy: by, Confidence: c,
		Origin: originCauses[t.origin], BanTime: maybeBanTime(d), BanTimeSource: sourceNames[src], PlannedEnd: t.plannedEnd(j),
		Banned: banned.duration(), Gap: gap.duration(), Restores: int(t.restores), Failures: int(t.failures),
		Count: int(t.bans), Reoffence: reoffence,
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
