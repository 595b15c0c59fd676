package correlate

import "math"

// endOfLog is after every event of a host.
const endOfLog = math.MaxUint64

// restart is a restart of a server or a jail that still waits for the bans it
// lifted to come back.
type restart struct {
	scope, kind string
	stopped     ms
	started     ms
	seq         uint64
	certain     bool
	clean       bool
	active      int
	restored    int
	over        int
	lost        int
	gapFailures int
	open        int // bans not settled
	proof       []Line
}

// maxRestarts bounds how many restarts of a host may wait for their bans: a
// server that restarts in a loop must not make every line slower than the last.
const maxRestarts = 64

// noteRestart keeps a restart until its bans have settled.
func (h *host) noteRestart(r *restart) {
	if len(h.restarts) >= maxRestarts {
		h.sayRestart(h.restarts[0])
		h.restarts = h.restarts[1:]
	}
	h.restarts = append(h.restarts, r)
}

// take makes a suspended ban one that this restart lifted.
func (r *restart) take(t *track) {
	t.waiting().restart = r
	r.active++
	r.open++
}

// settleRestart notes what became of a ban that a restart lifted.
func (t *track) settleRestart(note func(*restart)) {
	r := t.waits().restart
	if r == nil {
		return
	}
	note(r)
	r.open--
	t.wait.restart = nil
	t.tidy()
}

// settleLost ends the bans that did not come back after a start: those whose
// time was over meanwhile, and those that are lost.
func (j *jail) settleLost() {
	from := max(j.touched, j.startedAt)
	if from == 0 {
		from = j.h.run.lastJail
	}
	j.settleHeld(j.heldCause(from), Likely)
	for _, t := range j.sorted(func(t *track) bool { return t.state == suspended && t.waits().ban == nil }) {
		switch end := t.end(j); {
		case end == 0:
			j.close(t, t.lifted, EndedUnknown, Unsure)
		case end != never && end <= from:
			j.closeExpected(t, end)
		default:
			j.lose(t)
		}
	}
}

// closeExpected ends a ban whose end has passed without a line. It was in force
// at least until a stop lifted it.
func (j *jail) closeExpected(t *track, end ms) {
	if t.state == suspended {
		end = max(end, t.lifted)
	}
	j.close(t, end, EndedExpected, Likely)
}

func (j *jail) lose(t *track) {
	j.counts.Lost++
	row := &Lost{
		Host: j.h.name, Jail: j.name, ID: t.id, BanStarted: t.started.time(), Lifted: t.lifted.time(),
		PlannedEnd: t.plannedEnd(j), RestartStarted: j.h.run.started.time(), Confidence: Likely,
	}
	if r := t.waits().restart; r != nil {
		row.RestartStarted = r.started.time()
	}
	j.say(Finding{Kind: FindingLost, Time: t.lifted.time(), Seq: j.h.seq, ID: t.id, Lost: row, Proof: j.lostProof(t)})
	j.close(t, t.lifted, EndedLost, Likely)
}

// sayRestarts says the restarts whose bans are all settled.
func (h *host) sayRestarts(to ms) {
	kept := h.restarts[:0]
	for _, r := range h.restarts {
		if to != never && (r.open > 0 || to <= r.started+span(h.e.o.LostSettle)) {
			kept = append(kept, r)
			continue
		}
		h.sayRestart(r)
	}
	h.restarts = kept
}

func (h *host) sayRestart(r *restart) {
	row := &Restart{
		Host: h.name, Scope: r.scope, Kind: r.kind, Confidence: confidence(r.certain), Stopped: r.stopped.time(), Started: r.started.time(),
		ActiveBefore: r.active, Restored: r.restored, EndedMeanwhile: r.over, Lost: r.lost, GapFailures: r.gapFailures,
	}
	if r.kind != "crash" {
		row.Down = maybeSeconds(max(0, r.started-r.stopped))
	}
	jail := ""
	if r.scope != "server" {
		jail = r.scope
	}
	h.e.say(Finding{Kind: FindingRestart, Time: r.started.time(), Host: h.name, Seq: r.seq, Jail: jail, Restart: row, Proof: r.proof})
}

// mayBeLifted tells a `restart J` that could be a `restart --unban J`: up to
// 1.1.0 both log the same, and where the jail's watched file is not known their
// order does not tell either. What comes back from the database will.
func (j *jail) mayBeLifted() bool {
	run, reload := &j.h.run, &j.h.reload
	return reload.open && reload.jail == j.name && (run.database || run.started == 0)
}

// holdUnban suspends a ban; whether a stop or an administrator lifted it stays
// open until the jail's bans have come back, or have not.
func (j *jail) holdUnban(u *unban) {
	t := u.t
	if t.waits().ban != nil {
		j.settleBan(t)
	}
	if w := t.wait; w != nil && w.unban == u {
		w.unban = nil
		t.tidy()
	}
	if t.state == idle && t.started == 0 {
		j.openUnseen(t)
	}
	t.noteLift(j, u.line)
	j.suspend(t, u.at, byJailStop)
	j.held = append(j.held, u)
}

// heldCause is an administrator, where a ban was not yet over and none came
// back (rule 22).
func (j *jail) heldCause(from ms) Cause {
	for _, u := range j.held {
		if end := u.t.end(j); u.t.state == suspended && u.t.lifted == u.at && end > from {
			return Manual
		}
	}
	return JailStop
}

// settleHeld says what lifted the bans held.
func (j *jail) settleHeld(cause Cause, c Confidence) {
	held := j.held
	j.held = nil
	for _, u := range held {
		detail := j.unbanDetail(u.at, cause)
		j.countUnban(u.t, u.at, u.seq, cause, c, detail, u.line)
		if u.t.state != suspended || u.t.lifted != u.at {
			continue
		}
		switch cause {
		case Shutdown:
			u.t.liftedBy = byStop
		case Manual:
			if row := j.close(u.t, u.at, EndedManual, Likely); row != nil {
				row.Detail = detail
			}
		}
	}
}

// heldAtEnd is what lifted the bans held when their run has ended.
func heldAtEnd(r *run) (Cause, Confidence) {
	if r.stopping != 0 {
		return Shutdown, Certain
	}
	return JailStop, Likely
}
