package e2e

import (
	"context"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"fail2ban-loki-exporter/e2e/internal/lab"
)

// causes translates the causes of a recording's truth into those of
// fail2ban_restored_bans_total.
var causes = map[string]string{
	"restart-clean":  "clean_restart",
	"restart-crash":  "crash",
	"restart-jail":   "jail_restart",
	"reload":         "jail_restart",
	"reload-restart": "jail_restart",
}

// The daemon's counters tell what truly happened.
func TestMetricsTellTheTruth(t *testing.T) {
	for _, name := range []string{"clean-restart", "restart-jail"} {
		t.Run(name, func(t *testing.T) {
			tenant, r := pushNow(t, name)
			bans := 0.0
			for _, n := range r.Count("ban") {
				bans += float64(n)
			}
			restored := map[string]float64{}
			for cause, n := range r.Count("restore") {
				if causes[cause] == "" {
					t.Fatalf("the truth has a cause this test does not know: %s", cause)
				}
				restored[causes[cause]] += float64(n)
			}
			s := daemon(t, config{tenant: tenant})
			metricsBecome(t, s, func(samples []lab.Sample) error {
				if got := lab.Sum(samples, "fail2ban_bans_total"); got != bans {
					return fmt.Errorf("%v true bans, there were %v", got, bans)
				}
				got := lab.SumBy(samples, "fail2ban_restored_bans_total", "cause")
				maps.DeleteFunc(got, func(_ string, n float64) bool { return n == 0 })
				if !maps.Equal(got, restored) {
					return fmt.Errorf("restored %v, truly %v", got, restored)
				}
				return nil
			})
		})
	}
}

// Each line that says Ban or Restore Ban is counted as one of: a true ban, a
// restored one, one read again.
func TestMetricsAddUpToTheLog(t *testing.T) {
	for _, name := range []string{"clean-restart", "crash-kill9", "multihost", "soak"} {
		t.Run(name, func(t *testing.T) {
			tenant, r := pushNow(t, name)
			s := daemon(t, config{tenant: tenant})
			metricsBecome(t, s, func(samples []lab.Sample) error {
				bans := lab.Sum(samples, "fail2ban_bans_total")
				restored := lab.Sum(samples, "fail2ban_restored_bans_total")
				reread := lab.Sum(samples, "fail2ban_reread_bans_total")
				if want := float64(r.CountLines(banLine)); bans+restored+reread != want {
					return fmt.Errorf("%v true + %v restored + %v read again, the log has %v", bans, restored, reread, want)
				}
				return nil
			})
			for _, path := range []string{"/", "/-/healthy"} {
				if _, err := lab.Get(t.Context(), s.URL+path); err != nil {
					t.Error(err)
				}
			}
			s.Stop()
			if code := s.ExitCode(); code != 0 {
				t.Errorf("SIGTERM ends the daemon with code %d", code)
			}
		})
	}
}

// metricsBecome waits until the daemon is ready and its metrics are as they
// must be, and that they are still so when it has polled again.
func metricsBecome(t *testing.T, s *lab.Server, right func([]lab.Sample) error) {
	t.Helper()
	poll(t, s, "is not ready", func(ctx context.Context) error {
		_, err := lab.Get(ctx, s.URL+"/-/ready")
		return err
	})
	cursor := 0.0
	poll(t, s, "has other metrics", func(ctx context.Context) error {
		samples, err := lab.Scrape(ctx, s.URL+"/metrics")
		if err != nil {
			return err
		}
		cursor = lab.Sum(samples, "fail2ban_exporter_cursor_timestamp_seconds")
		return right(samples)
	})
	poll(t, s, "has not polled again", func(ctx context.Context) error {
		samples, err := lab.Scrape(ctx, s.URL+"/metrics")
		if err != nil {
			return err
		}
		if now := lab.Sum(samples, "fail2ban_exporter_cursor_timestamp_seconds"); now <= cursor {
			return fmt.Errorf("the cursor stays at %v", now)
		}
		if err := right(samples); err != nil {
			t.Errorf("after another poll: %v", err)
		}
		return nil
	})
}

// Every Restore Ban line becomes one finding in Loki, at its own time; a
// second run adds none.
func TestFindingsInLoki(t *testing.T) {
	for _, name := range []string{"clean-restart", "crash-kill9", "multihost", "soak"} {
		t.Run(name, func(t *testing.T) {
			tenant, r := pushNow(t, name)
			var want []string
			for _, l := range r.Lines() {
				if restoreLine.MatchString(l.Text) {
					want = append(want, l.Host+" "+l.Stamp().Format(time.RFC3339Nano))
				}
			}
			slices.Sort(want)

			file := config{tenant: tenant, push: true}.write(t)
			for _, round := range []string{"first run", "second run"} {
				succeed(t, "run", "--once", "--config.file", file, "--web.listen-address", "127.0.0.1:0")
				entries, err := lab.QueryLoki(t.Context(), loki.URL, tenant,
					`{job="fail2ban-loki-exporter"} | finding="restore"`, r.End().Add(-time.Hour), time.Now())
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				for _, e := range entries {
					got = append(got, e.Labels["host"]+" "+e.Time.Truncate(time.Millisecond).Format(time.RFC3339Nano))
					if !strings.HasPrefix(e.Line, "finding=restore ") {
						t.Errorf("%s: line %q", round, e.Line)
					}
					for _, key := range []string{"finding_id", "jail", "ip", "cause"} {
						if e.Metadata[key] == "" {
							t.Errorf("%s: %q has no %s beside it: %v", round, e.Line, key, e.Metadata)
						}
						if e.Labels[key] != "" {
							t.Errorf("%s: %s is a label", round, key)
						}
					}
				}
				slices.Sort(got)
				if !slices.Equal(got, want) {
					t.Errorf("%s: %d findings for %d Restore Ban lines, or of other times or hosts", round, len(got), len(want))
				}
			}
		})
	}
}

// A real Prometheus scrapes the daemon, and its promtool has no complaint.
func TestPrometheus(t *testing.T) {
	tenant, r := pushNow(t, "clean-restart")
	s := daemon(t, config{tenant: tenant})
	poll(t, s, "is not ready", func(ctx context.Context) error {
		_, err := lab.Get(ctx, s.URL+"/-/ready")
		return err
	})
	prometheus, err := lab.StartPrometheus(t.Context(), lab.PrometheusOptions{
		Targets: map[string]string{"fail2ban": strings.TrimPrefix(s.URL, "http://")},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(prometheus.Stop)
	want := 0.0
	for _, n := range r.Count("ban") {
		want += float64(n)
	}
	poll(t, prometheus, "does not know the exporter's metrics", func(ctx context.Context) error {
		up, err := lab.QueryPrometheus(ctx, prometheus.URL, "up")
		if err != nil {
			return err
		}
		if len(up) != 1 || up[0].Value != 1 {
			return fmt.Errorf("up is %v", up)
		}
		bans, err := lab.QueryPrometheus(ctx, prometheus.URL, "fail2ban_bans_total")
		if err != nil {
			return err
		}
		if got := lab.Sum(bans, "fail2ban_bans_total"); got != want {
			return fmt.Errorf("%v true bans, there were %v", got, want)
		}
		return nil
	})

	page, err := lab.Get(t.Context(), s.URL+"/metrics")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), promtool, "check", "metrics")
	cmd.Stdin = strings.NewReader(string(page) + "\n")
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}
