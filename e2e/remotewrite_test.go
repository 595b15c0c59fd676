package e2e

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"fail2ban-loki-exporter/e2e/internal/lab"
)

// versions are the messages of remote write 1.0 and 2.0.
var versions = map[string]string{"1.0": "prometheus.WriteRequest", "2.0": "io.prometheus.write.v2.Request"}

func startPrometheus(t *testing.T, o lab.PrometheusOptions) *lab.Server {
	t.Helper()
	p, err := lab.StartPrometheus(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return p
}

// remoteWrite is the configuration's section for a Prometheus.
func remoteWrite(p *lab.Server, message, more string) string {
	return fmt.Sprintf("remote_write:\n  - url: %s/api/v1/write\n    protobuf_message: %s\n    interval: 1s\n    external_labels: {job: fail2ban, instance: e2e}\n%s", p.URL, message, more)
}

// bySeries are samples by host, jail and verb, cause or origin, without what a
// receiver adds.
func bySeries(samples []lab.Sample, names ...string) map[string]float64 {
	out := map[string]float64{}
	for _, s := range samples {
		if slices.Contains(names, s.Name) {
			key := s.Name
			for _, label := range []string{"host", "jail", "verb", "cause", "origin", "le"} {
				key += " " + s.Labels[label]
			}
			out[key] += s.Value
		}
	}
	return out
}

// A real Prometheus has what /metrics shows, by both versions, and shows none of
// it any more once the exporter has ended.
func TestRemoteWrite(t *testing.T) {
	names := []string{"fail2ban_bans_total", "fail2ban_restored_bans_total", "fail2ban_log_events_total", "fail2ban_protection_gap_seconds_bucket", "fail2ban_protection_gap_seconds_count"}
	for version, message := range versions {
		t.Run(version, func(t *testing.T) {
			tenant, _ := pushNow(t, "clean-restart")
			p := startPrometheus(t, lab.PrometheusOptions{})
			c := config{tenant: tenant, more: remoteWrite(p, message, "")}
			if out := execute(t, "check", "--config.file", c.write(t)); !strings.Contains(out.stderr, "takes what is written") || strings.Contains(out.stderr, "warning") {
				t.Errorf("check: code %d\n%s", out.code, out.stderr)
			}
			s := daemon(t, c)
			poll(t, s, "has written other values than it shows", func(ctx context.Context) error {
				page, err := lab.Scrape(ctx, s.URL+"/metrics")
				if err != nil {
					return err
				}
				want := bySeries(page, names...)
				written, err := lab.QueryPrometheus(ctx, p.URL, `{__name__=~"fail2ban_.*",job="fail2ban",instance="e2e"}`)
				if err != nil {
					return err
				}
				if got := bySeries(written, names...); len(want) == 0 || !maps.Equal(got, want) {
					return fmt.Errorf("%d series were written, %d are shown", len(got), len(want))
				}
				return nil
			})
			s.Stop()
			if code := s.ExitCode(); code != 0 {
				t.Errorf("it ends with code %d", code)
			}
			poll(t, p, "still shows series of an exporter that has ended", func(ctx context.Context) error {
				left, err := lab.QueryPrometheus(ctx, p.URL, `{job="fail2ban"}`)
				if err == nil && len(left) > 0 {
					err = fmt.Errorf("%d of them, like %v", len(left), left[0])
				}
				return err
			})
		})
	}
}

// Native histograms arrive by both versions too, beside the classic ones.
func TestRemoteWriteOfNativeHistograms(t *testing.T) {
	for version, message := range versions {
		t.Run(version, func(t *testing.T) {
			tenant, r := pushNow(t, "clean-restart")
			p := startPrometheus(t, lab.PrometheusOptions{})
			s := daemon(t, config{tenant: tenant, more: remoteWrite(p, message, "    send_native_histograms: true\n")})
			caughtUp(t, s, r.End())
			page, err := lab.Scrape(t.Context(), s.URL+"/metrics")
			must(t, err)
			nativeAgrees(t, p, page, "fail2ban_protection_gap_seconds")
		})
	}
}

// Whoever scrapes an exporter and has it write too is warned.
func TestRemoteWriteBesideAScrape(t *testing.T) {
	tenant, _ := pushNow(t, "clean-restart")
	s := daemon(t, config{tenant: tenant})
	p := startPrometheus(t, lab.PrometheusOptions{Targets: map[string]string{"fail2ban": strings.TrimPrefix(s.URL, "http://")}})
	file := config{tenant: tenant, more: remoteWrite(p, versions["1.0"], "")}.write(t)
	poll(t, p, "is not seen to scrape", func(context.Context) error {
		if out := execute(t, "check", "--config.file", file); !strings.Contains(out.stderr, "warning: remote_write[0]: the receiver scrapes an exporter too") {
			return fmt.Errorf("check says: %s", out.stderr)
		}
		return nil
	})
}

// pastColumns are columns of the report of jails by the metrics that tell the
// same.
var pastColumns = map[string]string{
	"bans": "fail2ban_bans_total", "restored_bans": "fail2ban_restored_bans_total", "reread_bans": "fail2ban_reread_bans_total", "failures": "fail2ban_failures_total",
	"unbans_expired": `fail2ban_unbans_total{cause="expired"}`, "unbans_shutdown": `fail2ban_unbans_total{cause="shutdown"}`, "unbans_manual": `fail2ban_unbans_total{cause="manual"}`,
	"lost_bans": "fail2ban_lost_bans_total", "reoffences": "fail2ban_reoffences_total",
}

// The past is written at its own times, and says of each time what a report up
// to then says. Another reading of the past writes none of it again.
func TestRemoteWriteHistory(t *testing.T) {
	for version, message := range versions {
		t.Run(version, func(t *testing.T) {
			tenant := strings.ReplaceAll(t.Name(), "/", "-")
			var times []time.Time
			for i, name := range []string{"multihost", "clean-restart", "restart-jail"} {
				r := load(t, name)
				if name != "multihost" {
					r = r.Rename("git-" + strconv.Itoa(i))
				}
				r = r.EndAt(time.Now().Add(time.Duration(i-5) * 20 * time.Minute))
				push(t, tenant, r)
				times = append(times, r.End().Add(8*time.Minute).Truncate(time.Minute))
			}
			p := startPrometheus(t, lab.PrometheusOptions{})
			dir := t.TempDir()
			state := filepath.Join(dir, "state")
			c := config{tenant: tenant, state: state, lookback: "4h", more: remoteWrite(p, message, "    history: true\n")}
			file := c.write(t)
			written, with := pastWritten(t, file, p)
			t.Logf("%v requests for the past", written)
			told := 0
			for _, at := range times {
				for column, metric := range pastColumns {
					want := reportedAt(t, file, column, at)
					got, err := lab.QueryPrometheusAt(t.Context(), p.URL, fmt.Sprintf(`sum by (host, jail) (%s) > 0`, metric), at)
					if err != nil {
						t.Fatal(err)
					}
					have := map[string]float64{}
					for _, s := range got {
						have[s.Labels["host"]+" "+s.Labels["jail"]] = s.Value
					}
					told += len(want)
					if column == "bans" && len(want) == 0 {
						t.Errorf("a report says nothing of %v", at)
					}
					if !maps.Equal(have, want) {
						t.Errorf("%s at %v: %v were written, a report says %v", column, at, have, want)
					}
				}
			}
			t.Logf("%d values of the past are those of reports", told)
			if err := os.Remove(state); err != nil {
				t.Fatal(err)
			}
			again, without := pastWritten(t, file, nil)
			if again != 0 {
				t.Errorf("%v requests for the past after a rebuild", again)
			}
			if err := differences(with, without); err != nil {
				t.Errorf("with the past written it comes to other totals: %v", err)
			}
			succeed(t, "run", "--once", "--config.file", file, "--web.listen-address", "127.0.0.1:0")
			left, err := lab.QueryPrometheus(t.Context(), p.URL, `fail2ban_bans_total{job="fail2ban"}`)
			if err != nil || len(left) == 0 {
				t.Errorf("--once leaves %d series, %v", len(left), err)
			}
		})
	}
}

// pastWritten runs the daemon until the past has been written, where it shall
// be, and tells how many requests that took and to which totals it came.
func pastWritten(t *testing.T, file string, p *lab.Server) (requests float64, all map[string]float64) {
	t.Helper()
	s := daemonOf(t, file)
	defer s.Stop()
	caughtUp(t, s, time.Now().Add(-30*time.Second))
	poll(t, s, "has not written the past", func(ctx context.Context) error {
		page, err := lab.Get(ctx, s.URL+"/")
		if err != nil {
			return err
		}
		if p != nil && !strings.Contains(string(page), "the past was written") {
			return fmt.Errorf("its page says %s", page)
		}
		samples, err := lab.Scrape(ctx, s.URL+"/metrics")
		if err != nil {
			return err
		}
		requests, all = 0, totals(samples)
		for _, m := range samples {
			if m.Name == "fail2ban_exporter_sink_batches_total" && strings.HasSuffix(m.Labels["sink"], "-history") {
				requests += m.Value
				if m.Labels["result"] != "ok" && m.Value > 0 {
					t.Errorf("%v", m)
				}
			}
		}
		return nil
	})
	return requests, all
}

// reportedAt is a column of the report of jails up to a time, by host and jail,
// where it is not 0.
func reportedAt(t *testing.T, file, column string, to time.Time) map[string]float64 {
	t.Helper()
	out := succeed(t, "report", "jails", "--config.file", file, "--format", "csv", "--from", "now-4h", "--to", to.UTC().Format(time.RFC3339))
	rows, err := csv.NewReader(strings.NewReader(out)).ReadAll()
	if err != nil || len(rows) < 2 {
		t.Fatalf("%v in %q", err, out)
	}
	at := slices.Index(rows[0], column)
	values := map[string]float64{}
	for _, row := range rows[1:] {
		if v, _ := strconv.ParseFloat(row[at], 64); v != 0 {
			values[row[0]+" "+row[1]] = v
		}
	}
	return values
}

// Receivers that hang, cut, or answer 400, 500, or 429 for an hour: the metrics
// do not wait for them, the good one has present and past, and the end of the
// program is not held up. A reload goes on with the same series.
func TestRemoteWriteBadReceivers(t *testing.T) {
	tenant, _ := stepBack(t, "multihost")
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	p := startPrometheus(t, lab.PrometheusOptions{})
	more := remoteWrite(p, versions["2.0"], "    history: true\n")
	urls := []string{"http://" + silent.Addr().String()}
	for _, answer := range []http.HandlerFunc{
		func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusBadRequest) },
		func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusInternalServerError) },
		func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "3600")
			http.Error(w, "slow down", http.StatusTooManyRequests)
		},
	} {
		s := httptest.NewServer(answer)
		t.Cleanup(s.Close)
		urls = append(urls, s.URL)
	}
	for _, url := range urls {
		more += fmt.Sprintf("  - url: %q\n    interval: 1s\n    history: true\n    queue_wait: 2s\n", url)
	}
	c := config{tenant: tenant, lookback: "2h", state: filepath.Join(t.TempDir(), "state"), more: more}
	start := time.Now()
	s := daemon(t, c)
	poll(t, s, "is not ready", func(ctx context.Context) error {
		_, err := lab.Get(ctx, s.URL+"/-/ready")
		return err
	})
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("ready after %v: it waited for a receiver", took)
	}
	poll(t, s, "has not written the past to the good one", func(ctx context.Context) error {
		samples, err := lab.Scrape(ctx, s.URL+"/metrics")
		if err != nil {
			return err
		}
		failed := map[string]bool{}
		for _, m := range samples {
			if m.Name == "fail2ban_exporter_sink_dropped_total" && m.Value > 0 && !strings.HasSuffix(m.Labels["sink"], "-history") {
				failed[m.Labels["sink"]] = true
			}
		}
		if failed["remote-write-0"] || len(failed) != len(urls) {
			return fmt.Errorf("dropped by %v", failed)
		}
		past, err := lab.QueryPrometheusAt(ctx, p.URL, `fail2ban_bans_total{job="fail2ban"}`, time.Now().Add(-10*time.Minute))
		if err == nil && len(past) == 0 {
			err = errors.New("Prometheus knows nothing of the past")
		}
		return err
	})
	for _, when := range []string{"before", "after"} {
		before := time.Now().Unix()
		poll(t, p, "has not the newest round "+when+" a reload", func(ctx context.Context) error {
			got, err := lab.QueryPrometheus(ctx, p.URL, fmt.Sprintf(`count(timestamp(fail2ban_bans_total{job="fail2ban"}) > %d)`, before))
			if err == nil && len(got) == 0 {
				err = errors.New("nothing since")
			}
			return err
		})
		if when == "before" {
			s.Signal(syscall.SIGHUP)
		}
	}
	start = time.Now()
	s.Stop()
	if took := time.Since(start); took > 15*time.Second || s.ExitCode() != 0 {
		t.Errorf("ended after %v with code %d", took, s.ExitCode())
	}
}
