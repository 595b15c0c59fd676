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
	t.restart = r
	r.active++
	r.open++
}

// settleRestart notes what became of a ban that a restart lifted.
func (t *track) settleRestart(note func(*restart)) {
	if t.restart == nil {
		return
	}
	note(t.restart)
	t.restart.open--
	t.restart = nil
}

// settleLost ends the bans that did not come back after a start: those whose
// time was over meanwhile, and those that are lost.
func (j *jail) settleLost() {
	from := max(j.touched, j.startedAt)
	if from == 0 {
		from = j.h.run.lastJail
	}
	for _, t := range j.sorted(func(t *track) bool { return t.state == suspended && t.ban == nil }) {
		switch end := t.end(j); {
		case end == 0:
			j.close(t, t.lifted, EndedUnknown, Unsure)
		case end != never && end <= from:
			j.close(t, end, EndedExpected, Likely)
		default:
			j.lose(t)
		}
	}
}

func (j *jail) lose(t *track) {
	j.counts.Lost++
	row := &Lost{
		Host: j.h.name, Jail: j.name, ID: t.id, BanStarted: t.started.time(), Lifted: t.lifted.time(),
		PlannedEnd: t.plannedEnd(j), RestartStarted: j.h.run.started.time(), Confidence: Likely,
	}
	if t.restart != nil {
		row.RestartStarted = t.restart.started.time()
	}
	j.say(Finding{Kind: FindingLost, Time: t.lifted.time(), Seq: j.h.seq, ID: t.id, Lost: row})
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
	h.e.say(Finding{Kind: FindingRestart, Time: r.started.time(), Host: h.name, Seq: r.seq, Jail: jail, Restart: row})
}
