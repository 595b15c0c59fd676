package lab_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"fail2ban-loki-exporter/e2e/internal/lab"
)

// TestMain builds the servers before the clock of the test's timeout runs.
func TestMain(m *testing.M) {
	for _, name := range []string{"loki", "prometheus"} {
		if _, err := lab.Build(context.Background(), name, os.Stderr); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func startLoki(t *testing.T, o lab.LokiOptions) *lab.Server {
	t.Helper()
	loki, err := lab.StartLoki(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(loki.Stop)
	return loki
}

// A recording comes back from a real Loki in the order of its file, whatever
// its age and over however many streams it was spread.
func TestPushAndReadBack(t *testing.T) {
	loki := startLoki(t, lab.LokiOptions{Auth: true})
	multihost := load(t, "multihost")
	for _, tt := range []struct {
		tenant    string
		recording *lab.Recording
	}{
		{"as-recorded", multihost},
		{"now", multihost.EndAt(time.Now())},
		{"years-ago", multihost.EndAt(time.Now().AddDate(-5, 0, 0))},
	} {
		t.Run(tt.tenant, func(t *testing.T) {
			lines := tt.recording.Lines()
			if err := lab.Push(t.Context(), loki.URL, tt.tenant, lab.Spread(3), lines); err != nil {
				t.Fatal(err)
			}
			from, to := tt.recording.End().Add(-time.Hour), tt.recording.End().Add(time.Minute)
			entries, err := lab.QueryLoki(t.Context(), loki.URL, tt.tenant, `{job="fail2ban"}`, from, to)
			if err != nil {
				t.Fatal(err)
			}
			if len(entries) != len(lines) {
				t.Errorf("pushed %d lines, read %d back", len(lines), len(entries))
			}
			streams := map[string]bool{}
			read := map[string][]string{}
			for _, e := range entries {
				read[e.Labels["host"]] = append(read[e.Labels["host"]], e.Line)
				streams[e.Labels["host"]+e.Labels["filename"]] = true
			}
			if len(streams) != 9 {
				t.Errorf("%d streams, want 3 for each of 3 hosts", len(streams))
			}
			for _, h := range tt.recording.Hosts {
				if !slices.Equal(h.Lines, read[h.Name]) {
					t.Errorf("%s: the lines read back are not those of the file, in its order", h.Name)
				}
			}
		})
	}
}

func TestLokiWantsTenant(t *testing.T) {
	loki := startLoki(t, lab.LokiOptions{Auth: true})
	_, err := lab.QueryLoki(t.Context(), loki.URL, "", `{job="fail2ban"}`, time.Now().Add(-time.Hour), time.Now())
	if err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("a query without a tenant: %v, want status 401", err)
	}
}

// A server that cannot start is reported with its own words, at once.
func TestBadConfigurationEndsStart(t *testing.T) {
	began := time.Now()
	_, err := lab.StartLoki(t.Context(), lab.LokiOptions{Limits: map[string]string{"no_such_limit": "1"}})
	if err == nil || !strings.Contains(err.Error(), "no_such_limit") {
		t.Errorf("error %v, want one with Loki's reason", err)
	}
	if d := time.Since(began); d > 20*time.Second {
		t.Errorf("noticed after %s", d)
	}
}

func TestPrometheusScrapes(t *testing.T) {
	addr, err := lab.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	prometheus, err := lab.StartPrometheus(t.Context(), lab.PrometheusOptions{Targets: map[string]string{"nobody": addr}})
	if err != nil {
		t.Fatal(err)
	}
	defer prometheus.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err = prometheus.Poll(ctx, "has not scraped", func() error {
		up, err := lab.QueryPrometheus(ctx, prometheus.URL, "up")
		if err != nil {
			return err
		}
		if len(up) != 1 || up[0].Labels["job"] != "nobody" || up[0].Value != 0 {
			return fmt.Errorf("up is %v, want nobody down", up)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestStopLeavesNothing(t *testing.T) {
	s, err := lab.Start(t.Context(), lab.Command{Name: "sleep", Path: "/bin/sh", Args: []string{"-c", "exec sleep 600"}})
	if err != nil {
		t.Fatal(err)
	}
	dir := s.Dir
	s.Stop()
	s.Stop()
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s still there: %v", dir, err)
	}
	if code := s.ExitCode(); code != -1 {
		t.Errorf("exit code %d, want an end by signal", code)
	}
}

func TestRecording(t *testing.T) {
	r := load(t, "crash-kill9")
	end := time.Now().UTC().Add(-5 * time.Minute)
	moved := r.EndAt(end)
	if got := moved.End().Truncate(time.Second); !got.Equal(end.Truncate(time.Second)) {
		t.Errorf("moved to %s, want %s", got, end)
	}
	was, is := r.Hosts[0].Lines, moved.Hosts[0].Lines
	if len(was) != len(is) || len(is) != 91 {
		t.Fatalf("%d lines became %d", len(was), len(is))
	}
	for i := range was {
		if strings.Contains(is[i], "2026-11-22 19:59") {
			t.Errorf("line %d keeps an old time: %s", i+1, is[i])
		}
		if len(was[i]) != len(is[i]) {
			t.Errorf("line %d changed its length: %s", i+1, is[i])
		}
	}
	var last time.Time
	for i, l := range moved.Lines() {
		if !l.Time.After(last) {
			t.Errorf("line %d is not after its predecessor", i+1)
		}
		last = l.Time
	}
	if n := r.Count("restore")["restart-crash"]; n != 6 {
		t.Errorf("%d true restores after a crash, want 6", n)
	}
}

func TestParseMetrics(t *testing.T) {
	samples, err := lab.ParseMetrics("# HELP a b\n# TYPE a counter\n" +
		`a{x="1",y="a \"quoted\" } , = value"} 2` + "\n" + `a{x="2"} 3e1 1700000000` + "\nb +Inf\n")
	if err != nil {
		t.Fatal(err)
	}
	if len(samples) != 3 || lab.Sum(samples, "a") != 32 {
		t.Errorf("samples %v", samples)
	}
	if got := samples[0].Labels["y"]; got != `a "quoted" } , = value` {
		t.Errorf("label %q", got)
	}
	if by := lab.SumBy(samples, "a", "x"); by["1"] != 2 || by["2"] != 30 {
		t.Errorf("sums %v", by)
	}
	if _, err := lab.ParseMetrics("novalue\n"); err == nil {
		t.Error("a line without a value is read")
	}
}

func load(t *testing.T, name string) *lab.Recording {
	t.Helper()
	r, err := lab.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
