package offender

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"
)

// Spans are times until something happened, or until nobody looked any more:
// the input of the Kaplan-Meier estimate. The zero value is empty and ready.
//
// Up to exactSpans of them are kept as they are, in milliseconds. Beyond that
// they are counted in bins, each 1 % wider than the one before and standing for
// its lower bound, so that every time the estimate then tells is at most 1 %
// too short. Either way the order in which they came does not matter.
type Spans struct {
	exact []span
	bins  map[int32]binned
	n     [2]int // censored, events
}

type span struct {
	ms    int64
	event bool
}

type binned struct{ censored, events uint32 }

const (
	exactSpans = 4096
	binWidth   = 1.01
)

var logWidth = math.Log(binWidth)

// Add notes a span, and whether it ended with the event or was censored.
func (s *Spans) Add(d time.Duration, event bool) { s.add(max(0, d.Milliseconds()), event) }

func (s *Spans) add(ms int64, event bool) {
	if event {
		s.n[1]++
	} else {
		s.n[0]++
	}
	if s.bins != nil {
		s.bin(span{ms, event})
		return
	}
	s.exact = append(s.exact, span{ms, event})
	if len(s.exact) > exactSpans {
		s.roughen()
	}
}

// Merge adds another set of spans.
func (s *Spans) Merge(o *Spans) {
	if s.bins == nil && o.bins != nil {
		s.roughen()
	}
	for no, b := range o.bins {
		mine := s.bins[no]
		s.bins[no] = binned{mine.censored + b.censored, mine.events + b.events}
	}
	if o.bins != nil {
		s.n[0] += o.n[0]
		s.n[1] += o.n[1]
		return
	}
	for _, x := range o.exact {
		s.add(x.ms, x.event)
	}
}

// Len counts the spans and those among them that ended with the event.
func (s *Spans) Len() (spans, events int) { return s.n[0] + s.n[1], s.n[1] }

// Events counts the events within a time.
func (s *Spans) Events(within time.Duration) (n int) {
	for _, x := range s.counted() {
		if x.ms <= within.Milliseconds() {
			n += x.events
		}
	}
	return n
}

func (s *Spans) roughen() {
	s.bins = map[int32]binned{}
	for _, x := range s.exact {
		s.bin(x)
	}
	s.exact = nil
}

func (s *Spans) bin(x span) {
	no := int32(-1) // 0 ms
	if x.ms > 0 {
		no = int32(math.Log(float64(x.ms))/logWidth + 1e-9)
	}
	b := s.bins[no]
	if x.event {
		b.events++
	} else {
		b.censored++
	}
	s.bins[no] = b
}

func (s *Spans) clone() Spans {
	return Spans{exact: slices.Clone(s.exact), bins: maps.Clone(s.bins), n: s.n}
}

// counted is how many spans there are of a length.
type counted struct {
	ms               int64
	events, censored int
}

// counted gives the spans by length, shortest first.
func (s *Spans) counted() (out []counted) {
	for no, b := range s.bins {
		c := counted{events: int(b.events), censored: int(b.censored)}
		if no >= 0 {
			c.ms = int64(math.Ceil(math.Exp(float64(no)*logWidth) - 1e-6))
		}
		out = append(out, c)
	}
	for _, x := range s.exact {
		c := counted{ms: x.ms}
		if x.event {
			c.events = 1
		} else {
			c.censored = 1
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b counted) int { return cmp.Compare(a.ms, b.ms) })
	k := 0
	for _, c := range out {
		if k > 0 && out[k-1].ms == c.ms {
			out[k-1].events += c.events
			out[k-1].censored += c.censored
			continue
		}
		out[k] = c
		k++
	}
	return out[:k]
}

// Step is where an estimate falls.
type Step struct {
	At       time.Duration
	AtRisk   int // spans at least so long
	Events   int // of them ended here
	Survival float64
	// StdErr is Greenwood's standard error of Survival.
	StdErr float64
}

// Estimate is the Kaplan-Meier estimate of the share still without the event
// after a time.
type Estimate struct {
	Spans, Events int
	Steps         []Step
	// Longest is the longest span: nothing is known beyond it.
	Longest time.Duration
}

// Estimate makes the Kaplan-Meier estimate of the spans. Of those with the same
// length the events come first, as is usual: who is censored then was still
// without.
func (s *Spans) Estimate() Estimate {
	spans, events := s.Len()
	e := Estimate{Spans: spans, Events: events}
	survival, greenwood := 1.0, 0.0
	left := spans
	for _, c := range s.counted() {
		e.Longest = time.Duration(c.ms) * time.Millisecond
		if c.events > 0 {
			n, d := float64(left), float64(c.events)
			survival *= 1 - d/n
			if left > c.events {
				greenwood += d / (n * (n - d))
			}
			e.Steps = append(e.Steps, Step{At: e.Longest, AtRisk: left, Events: c.events, Survival: survival, StdErr: survival * math.Sqrt(greenwood)})
		}
		left -= c.events + c.censored
	}
	return e
}

// Survival is the share still without the event after a time; false where the
// spans do not reach so far, or there are none.
func (e *Estimate) Survival(after time.Duration) (float64, bool) {
	s := 1.0
	for _, step := range e.Steps {
		if step.At > after {
			break
		}
		s = step.Survival
	}
	return s, e.Spans > 0 && (after <= e.Longest || s == 0)
}

// Median is the time after which half are no more without the event; false
// where it is beyond what was seen.
func (e *Estimate) Median() (time.Duration, bool) {
	for _, step := range e.Steps {
		if step.Survival <= 0.5 {
			return step.At, true
		}
	}
	return 0, false
}
