package correlate

import (
	"slices"

	"fail2ban-loki-exporter/exporter/internal/fail2ban"
)

// restoreLine is a restore whose row waits to see whether its attacker failed again.
type restoreLine struct {
	t      *track
	at     ms
	lifted ms
	due    ms
	seq    uint64
	failed bool
	row    *Restore
	proof  []Line
}

// restored takes `Restore Ban`, or the plain `Ban` of 0.8 and 0.9 that was one;
// verb is the line's own, for the table of events.
func (j *jail) restored(t *track, at ms, verb string) {
	if !j.h.informed && len(j.unbans) > 0 && j.h.run.pid > 1 {
		// Log level NOTICE: only what comes back, from the same process, tells that
		// the jail was stopped. In a container each server has the number 1.
		j.claimUnbans(at, JailStop)
	}
	j.resolveBefore(t, at)
	if t.waits().ban != nil {
		j.settleBan(t)
	}
	j.touched = max(j.touched, at)
	j.settleHeld(JailStop, Certain) // the bans come back
	cause, c := j.restoreCause(t)
	j.counts.Restored[slices.Index(RestoreCauses, cause)]++
	proof := j.restoreProof(t)
	j.h.verdict(at, j.h.seq, Occurrence{Event: verb, Jail: j.name, ID: t.id, Cause: cause, Confidence: c}, proof)
	j.observe(SawRestore, t, at)

	seen := t.started != 0
	t.restores++
	switch t.state {
	case suspended:
		t.settleRestart(func(r *restart) { r.restored++ })
	case idle:
		if cause != Zombie {
			t.started, t.base, t.own, t.until, t.source, t.restores = 0, 0, 0, 0, fromUnknown, 1
		}
		t.banned, t.came = 0, cameFirst
		if cause != Zombie {
			t.origin = originUnseen
		}
	}
	row := j.restoreRow(t, at, cause, c, seen)
	j.resume(t, at)
	j.capAtRestore(t, at)
	row.BanTime, row.PlannedEnd = maybeBanTime(t.own), t.plannedEnd(j)
	if end := t.end(j); end != 0 && end != never {
		row.Remaining = maybeSeconds(max(0, end-at))
	}
	j.waitForFailure(t, &restoreLine{t: t, at: at, lifted: msOf(row.Lifted), seq: j.h.seq, row: row, proof: proof})
}

// restoreCause is the verdict on a `Restore Ban`.
func (j *jail) restoreCause(t *track) (Cause, Confidence) {
	run := &j.h.run
	switch {
	case run.started == 0 && j.restart == nil && (t.state != suspended || t.liftRun != run.epoch):
		return CauseUnknown, Unsure // the start that it belongs to is not in the log
	case !t.known() && t.state != suspended: // not even its end at the stop is in the log
		return Orphan, Certain
	case t.state == idle || t.absent:
		return Zombie, Certain
	case t.state == active:
		return CauseUnknown, Unsure // nothing lifted it: lines are missing
	}
	cause, c := run.ended, Certain
	if t.liftRun == run.epoch {
		cause = JailRestart
	}
	switch {
	case cause == CauseUnknown:
		c = Unsure
	case run.inferred || !j.h.informed || fail2ban.LegacyVersion(j.h.version):
		c = Likely
	}
	return cause, c
}

// known tells whether a ban of this id was ever seen to begin.
func (t *track) known() bool { return t.origin != originUnseen && t.started != 0 }

func (j *jail) restoreRow(t *track, at ms, cause Cause, c Confidence, seen bool) *Restore {
	row := &Restore{
		Time: at.time(), Host: j.h.name, Jail: j.name, ID: t.id, Cause: cause, Confidence: c,
		RestartStarted: j.h.run.started.time(), LiftedBy: LiftedUnknown,
	}
	if cause == JailRestart && j.restart != nil {
		row.RestartStarted = j.restart.started.time()
	}
	if seen {
		row.BanStarted = t.started.time()
		row.Number = Known(int(t.restores))
	}
	lifted, by := t.lifted, t.liftedBy
	if t.state == idle {
		lifted, by = t.ended, t.endedBy
	}
	if lifted != 0 {
		row.Lifted, row.LiftedBy = lifted.time(), liftNames[by]
		gap := maybeSeconds(max(0, at-lifted))
		row.GapMax = gap
		if by != byCrash && by != byUnknown {
			row.Gap = gap
		}
		for _, f := range t.fails.since(lifted) {
			if f.at <= at {
				row.GapFailures += int(f.n)
			}
		}
	}
	return row
}

// capAtRestore applies what fail2ban does to the end of a restored ban: without
// increments the jail's present ban time is its upper bound.
func (j *jail) capAtRestore(t *track, at ms) {
	t.follows = false
	if fail2ban.LegacyVersion(j.h.version) {
		t.base, t.until, t.exact = at, 0, false // 0.9 starts the ban time anew
		t.own, t.source = j.presentBanTime()
	}
	if end := t.end(j); end != 0 && end+restoreSlack < at {
		t.base, t.until = 0, 0 // the row was still running: its end is another than we know
	}
	present, src := j.presentBanTime()
	if t.until == 0 && src == fromSettings && present > 0 && t.own != 0 && (t.own == permanent || t.own > present) {
		t.own, t.source = present, fromSettings
	}
	j.plan(t)
}

// restoreSlack is how long after its end a ban may still be restored: the jail's
// rows were read before.
const restoreSlack ms = 2000

// resume puts a ban in force again.
func (j *jail) resume(t *track, at ms) {
	j.observeGap(t, at)
	t.absent = false
	if t.state != active { // else nothing lifted it, as far as the log says
		j.setState(t, active)
		t.since = at
	}
}

// observeGap counts a protection gap whose both ends are in the log.
func (j *jail) observeGap(t *track, at ms) {
	if t.state == suspended && t.lifted != 0 && (t.liftedBy == byStop || t.liftedBy == byJailStop) && at >= t.lifted {
		j.gaps.Observe((at - t.lifted).duration())
	}
}

// gapBan is the row of a ban whose attack came while it was suspended: the
// columns of a restore.
func (j *jail) gapBan(t *track, b *banLine, c Confidence) {
	row := j.restoreRow(t, b.at, Gap, c, t.started != 0)
	row.GapFailures = 0
	for _, f := range b.fresh {
		if f.at/1000 >= t.lifted/1000 {
			row.GapFailures += int(f.n)
		}
	}
	row.Number, row.FailedAgain = Known(int(t.restores)), Known(true)
	d, _ := t.banTime(j)
	row.BanTime, row.PlannedEnd = maybeBanTime(d), t.plannedEnd(j)
	j.say(Finding{Kind: FindingGap, Time: row.Time, Seq: b.seq, ID: t.id, Restore: row, Proof: j.banProof(t, b, originGap)})
}

// waitForFailure keeps a restore's row until it shows whether its attacker is back.
func (j *jail) waitForFailure(t *track, w *restoreLine) {
	// a new restore ends the wait of the last: it is said when its turn comes
	w.due = w.at + span(j.h.e.o.FailedAgainWindow)
	w.failed = w.row.GapFailures > 0
	t.waiting().restore = w
	j.restores = append(j.restores, w)
	j.wake(w.due + 1)
}

// sayRestore says a restore's row, and its gap where somebody failed in it.
func (j *jail) sayRestore(w *restoreLine) {
	if w.t.waits().restore == w {
		w.t.wait.restore = nil
		w.t.tidy()
	}
	if j.foundLines {
		w.row.FailedAgain = Known(w.failed)
	}
	j.say(Finding{Kind: FindingRestore, Time: w.row.Time, Seq: w.seq, ID: w.t.id, Restore: w.row, Proof: w.proof})
	if w.row.GapFailures > 0 {
		j.say(Finding{Kind: FindingGap, Time: w.row.Time, Seq: w.seq, ID: w.t.id, Restore: w.row, Proof: w.proof})
	}
}
