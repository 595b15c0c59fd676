package pipeline

import (
	"time"

	"fail2ban-loki-exporter/exporter/internal/correlate"
)

// Steps are told of the past while it is read: what was known at each whole
// multiple of a duration, of all lines before it and of none after, as one who
// had followed then would have known it.
type Steps struct {
	// Every is the time from one step to the next.
	Every time.Duration
	// At is told of a step. It may make the reading wait.
	At func(at time.Time, r correlate.Report)
	// Done is told that the past has been read.
	Done func()
}

// stepper finds the steps among the lines of a feed.
type stepper struct {
	s       *Steps
	engine  *correlate.Engine
	silence func(now time.Time) // lets the log time of silent hosts pass
	next    time.Time
}

func newStepper(s *Steps, e *correlate.Engine, from time.Time, silence func(now time.Time)) *stepper {
	return &stepper{s: s, engine: e, silence: silence, next: from.Truncate(s.Every).Add(s.Every)}
}

// pass tells of the steps up to a time, before which all lines have been taken
// and from which on none has.
func (p *stepper) pass(to time.Time) {
	if p == nil {
		return
	}
	for ; !to.Before(p.next); p.next = p.next.Add(p.s.Every) {
		p.silence(p.next)
		p.s.At(p.next, p.engine.Report(false))
	}
}

// passSteps tells of the steps of a window that has been read, and of the end
// of the past.
func (w *Follower) passSteps(to time.Time, caughtUp bool) {
	if w.o.Steps == nil {
		return
	}
	w.feed.steps.pass(to)
	if caughtUp {
		w.feed.steps = nil
		w.o.Steps.Done()
		w.o.Steps = nil
	}
}
