package main

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fail2ban-loki-exporter/exporter/internal/publish"

	"github.com/prometheus/common/expfmt"
)

// The page of metrics over recordings of real servers: what a clean restart, a
// crash and a fleet look like to a Prometheus.
func TestPageOfRecordings(t *testing.T) {
	for _, name := range []string{"clean-restart", "crash-kill9", "multihost"} {
		t.Run(name, func(t *testing.T) {
			job := &reportJob{kind: publish.KindSummary, now: time.Now(), log: slog.New(slog.DiscardHandler)}
			r := &reportCommand{common: &common{configFile: defaultConfigFile}, timezone: "UTC"}
			inputs := []string{filepath.Join("..", "testdata", "recordings", name, "fail2ban.log")}
			if name == "multihost" {
				inputs = []string{"bastion", "web-1", "web-2"}
				for i, host := range inputs {
					inputs[i] = host + "=" + filepath.Join("..", "testdata", "recordings", name, host, "fail2ban.log")
				}
			}
			if err := r.readFiles(context.Background(), job, inputs, nil); err != nil {
				t.Fatal(err)
			}
			m := publish.NewMetrics(publish.MetricsOptions{}, nil)
			ranking := job.board.Rank(job.now, 5)
			m.Set(&publish.View{At: job.now, Sources: job.sources(), Offenders: ranking.Rows, Tracked: ranking.Tracked, Repeat: ranking.Repeat, CaughtUp: true})
			families, err := m.Gather()
			if err != nil {
				t.Fatal(err)
			}
			var page strings.Builder
			for _, f := range families {
				if _, err := expfmt.MetricFamilyToOpenMetrics(&page, f, expfmt.WithCreatedLines()); err != nil {
					t.Fatal(err)
				}
			}
			golden(t, "page-"+name+".txt", page.String())
		})
	}
}
