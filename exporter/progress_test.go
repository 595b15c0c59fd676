package main

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"fail2ban-loki-exporter/exporter/internal/loki"
)

func TestProgress(t *testing.T) {
	from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	day := 24 * time.Hour
	run := func(bar, log *bytes.Buffer) (ratios []float64) {
		p := &progress{name: "loki", from: from, to: from.Add(4 * day), log: slog.New(slog.NewTextHandler(log, nil)), ratio: func(r float64) { ratios = append(ratios, r) }}
		if bar != nil {
			p.bar = bar
		}
		now := from
		for i := range 4 { // a window of a day each, in two pages
			start := from.Add(time.Duration(i) * day)
			for k := 1; k <= 2; k++ {
				now = now.Add(6 * time.Second)
				p.tell(now, loki.Progress{From: start, To: start.Add(day), At: start.Add(time.Duration(k) * day / 2), Entries: 100 * k})
			}
		}
		p.end()
		p.tell(now.Add(time.Hour), loki.Progress{})
		return ratios
	}
	var bar, log bytes.Buffer
	ratios := run(&bar, &log)
	if len(ratios) != 9 || ratios[0] != 0.125 || ratios[7] != 1 || ratios[8] != 1 {
		t.Errorf("%v", ratios)
	}
	if log.Len() > 0 {
		t.Errorf("the log beside the bar: %s", log.String())
	}
	drawn := strings.Split(bar.String(), "\r\x1b[K")
	const want = "loki [#######.......................]  25%  2026-01-02 00:00  200 lines  18s left"
	if len(drawn) != 9 || drawn[1] != want || drawn[8] != "" {
		t.Errorf("%d times drawn: %q", len(drawn), drawn)
	}
	run(nil, &log)
	if n := strings.Count(log.String(), "\n"); n != 3 || !strings.Contains(log.String(), "done=62% up_to=2026-01-03T12:00:00Z lines=500 left=14s") {
		t.Errorf("%d lines: %s", n, log.String())
	}
}
