package pipeline

import (
	"slices"
	"testing"
	"time"

	"fail2ban-loki-exporter/exporter/internal/correlate"
	"fail2ban-loki-exporter/exporter/internal/fail2ban"
)

// A step knows all lines before it and none of its own instant or later, and
// where no line comes between two steps there is one of each all the same.
func TestSteps(t *testing.T) {
	start := time.Date(2026, 11, 1, 10, 0, 0, 0, time.UTC)
	type seen struct {
		after time.Duration
		bans  uint64
	}
	var got []seen
	f := NewFeed(FeedOptions{Parser: fail2ban.Options{}, Zone: func(string) *time.Location { return time.UTC }, Newest: start.Add(time.Hour)})
	f.steps = newStepper(&Steps{Every: time.Minute, At: func(at time.Time, r correlate.Report) {
		s := seen{after: at.Sub(start)}
		for _, h := range r.Hosts {
			for _, j := range h.Jails {
				s.bans += j.Counts.LogBans()
			}
		}
		got = append(got, s)
	}}, f.Engine(), start, func(time.Time) {})
	for _, after := range []time.Duration{30 * time.Second, 59999 * time.Millisecond, time.Minute, 190 * time.Second} {
		at := start.Add(after)
		f.Add(Line{Host: "web-1", At: at, Text: at.Format("2006-01-02 15:04:05,000") + " fail2ban.actions        [1]: NOTICE  [sshd] Ban 192.0.2." + at.Format("5")})
	}
	f.Flush()
	f.steps.pass(start.Add(4 * time.Minute))
	want := []seen{{time.Minute, 2}, {2 * time.Minute, 3}, {3 * time.Minute, 3}, {4 * time.Minute, 4}}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
