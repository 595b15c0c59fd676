package pipeline

import (
	"fmt"
	"testing"
	"time"

	"fail2ban-loki-exporter/exporter/internal/correlate"
)

// Restores are kept in the order of their times, whatever order they are
// settled in, and no more than asked for.
func TestRecent(t *testing.T) {
	r, start := NewRecent(4), time.Date(2026, 11, 22, 20, 0, 0, 0, time.UTC)
	for _, batch := range [][]int{{3, 1}, {}, {2, 9}, {7, 5}} {
		var findings []correlate.Finding
		for _, second := range batch {
			at := start.Add(time.Duration(second) * time.Second)
			findings = append(findings,
				correlate.Finding{Kind: correlate.FindingRestore, Time: at, Restore: &correlate.Restore{Time: at}},
				correlate.Finding{Kind: correlate.FindingGap, Time: at, Restore: &correlate.Restore{Time: at}})
		}
		r.add(findings, correlate.NewEngine(correlate.Options{}))
	}
	var got []int
	for _, row := range r.Restores() {
		got = append(got, int(row.Time.Sub(start).Seconds()))
	}
	if fmt.Sprint(got) != "[9 7 5 3]" {
		t.Errorf("%v", got)
	}
}
