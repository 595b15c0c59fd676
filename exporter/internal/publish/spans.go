package publish

import (
	"slices"
	"time"

	"fail2ban-loki-exporter/exporter/internal/correlate"
)

// SourceReport is the state of one source's hosts.
type SourceReport struct {
	Name   string
	Report correlate.Report
	// Spans adds what the report has only in buckets; nil leaves it unknown.
	Spans *Spans
}

// Spans keeps the exact lengths of protection gaps and re-offence delays, so
// that a one-shot report can say medians where counters have buckets only.
// The zero value is ready, a nil one knows nothing.
type Spans struct {
	gaps       map[string][]time.Duration
	reoffences map[correlate.Place][]time.Duration
}

// Add notes what a finding says of spans.
func (s *Spans) Add(f *correlate.Finding) {
	switch {
	case f.Kind == correlate.FindingReoffence:
		if s.reoffences == nil {
			s.reoffences = map[correlate.Place][]time.Duration{}
		}
		at := correlate.Place{Host: f.Host, Jail: f.Jail}
		s.reoffences[at] = append(s.reoffences[at], f.Reoffence.Delay)
	case isGap(f):
		if s.gaps == nil {
			s.gaps = map[string][]time.Duration{}
		}
		s.gaps[f.Host] = append(s.gaps[f.Host], f.Restore.Gap.V)
	}
}

// isGap tells the findings that end a protection gap, each gap once: a restore,
// or the ban that took a restore's place. What was lifted by its own end, or by
// a crash, had no gap that the log could measure (rule 18).
func isGap(f *correlate.Finding) bool {
	if f.Kind != correlate.FindingRestore && (f.Kind != correlate.FindingGap || f.Restore.Cause != correlate.Gap) {
		return false
	}
	by := f.Restore.LiftedBy
	return f.Restore.Gap.OK && (by == correlate.LiftedStop || by == correlate.LiftedJailStop)
}

// Reoffence is the median delay of the re-offences in a host's jail.
func (s *Spans) Reoffence(host, jail string) correlate.Maybe[time.Duration] {
	if s == nil {
		return correlate.Maybe[time.Duration]{}
	}
	return median(s.reoffences[correlate.Place{Host: host, Jail: jail}])
}

func (s *Spans) hostGaps(host string) []time.Duration {
	if s == nil {
		return nil
	}
	return s.gaps[host]
}

func median(d []time.Duration) correlate.Maybe[time.Duration] {
	n := len(d)
	if n == 0 {
		return correlate.Maybe[time.Duration]{}
	}
	d = slices.Sorted(slices.Values(d))
	return correlate.Known((d[(n-1)/2] + d[n/2]) / 2)
}

func longest(d []time.Duration) correlate.Maybe[time.Duration] {
	if len(d) == 0 {
		return correlate.Maybe[time.Duration]{}
	}
	return correlate.Known(slices.Max(d))
}
