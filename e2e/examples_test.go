package e2e

import (
	"bufio"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"fail2ban-loki-exporter/e2e/internal/lab"

	"github.com/prometheus/common/model"
)

// fallow are the examples that find nothing here: what they look for did not
// happen, or is not configured.
var fallow = map[string]string{
	"fail2ban_country_bans_total":                     "there is no file of countries",
	"fail2ban_host_last_line_timestamp_seconds":       "no host has been silent for a day",
	"fail2ban_jail_maxretry":                          "none is lenient",
	"fail2ban_reoffence_survival_ratio":               "the log is no seven days long",
	"fail2ban_suggested_bantime_seconds":              "some minutes are too little data",
	"fail2ban_offender_hosts":                         "",
	"fail2ban_exporter_config_last_reload_successful": "it was",
	"fail2ban_exporter_lines_total":                   "all was understood",
	"fail2ban_exporter_hosts_without_label":           "all have theirs",
	"fail2ban_exporter_committed_timestamp_seconds":   "nothing waits",
	"fail2ban_exporter_lag_seconds":                   "it does not fall behind",
	"fail2ban_exporter_backfill_progress_ratio":       "the past is read",
	"fail2ban_exporter_evicted_keys_total":            "there is room",
	"fail2ban_exporter_state_saves_total":             "no save failed",
	"fail2ban_exporter_sink_batches_total":            "no push failed",
	"fail2ban_exporter_sink_dropped_total":            "nothing was refused",
	"fail2ban_exporter_series_limited_total":          "there is room",
}

// Servers log as in recordings, while a Prometheus scrapes: every example query of
// docs/metrics.md says what the log proves. Counters have begun at 0, so what they
// rose by is what they have, and that is what `report` counts, which is held
// against the recordings' truth.
func TestExampleQueries(t *testing.T) {
	examples := exampleQueries(t)
	ends := time.Now().Add(54 * time.Second) // the longest takes 39 of them: all are scraped before anything happens
	var lines []lab.Line
	bans := 0
	for _, name := range []string{"clean-restart", "crash-kill9", "gap-attack", "manual-unban", "increment", "action-errors", "permanent", "nodb"} {
		r := load(t, name).EndAt(ends).Rename(name)
		lines = append(lines, r.Lines()...)
		for _, n := range r.Count("ban") {
			bans += n
		}
	}
	tenant := fmt.Sprintf("examples-%d", time.Now().UnixNano())
	must(t, lab.Push(t.Context(), loki.URL, tenant, lab.Spread(1), lines)) // those of the next seconds too
	c := config{tenant: tenant, push: true, lookback: "1h", source: "max_lateness: 4s\n    lag: 1s", more: "metrics: {top_offenders: 20}\ncorrelate: {lost_settle: 3s}\n"}
	s := daemon(t, c)
	target := map[string]string{"fail2ban": strings.TrimPrefix(s.URL, "http://")}
	p := startPrometheus(t, lab.PrometheusOptions{Targets: target})
	native := startPrometheus(t, lab.PrometheusOptions{Targets: target, Native: true})
	caughtUp(t, s, ends.Add(8*time.Second))
	poll(t, s, "has not ranked networks, which it does once a minute", func(ctx context.Context) error {
		page, err := lab.Scrape(ctx, s.URL+"/metrics")
		if err == nil && lab.Sum(page, "fail2ban_offender_network_score") == 0 {
			err = errors.New("no network has a score")
		}
		return err
	})
	page, err := lab.Scrape(t.Context(), s.URL+"/metrics")
	must(t, err)
	agreesWithReport(t, page, c.write(t))
	// the truth is what was executed: also bans that came of an old log read again
	if got := lab.Sum(page, "fail2ban_bans_total") + lab.Sum(page, "fail2ban_reread_bans_total"); bans == 0 || got != float64(bans) {
		t.Errorf("%v bans, the truth has %d", got, bans)
	}
	settled(t, p, page)
	empty := map[string]bool{}
	for name, expr := range examples {
		got, err := lab.QueryPrometheus(t.Context(), p.URL, expr)
		if err != nil {
			t.Errorf("%s: %s: %v", name, expr, err)
			continue
		}
		want, err := lab.QueryPrometheus(t.Context(), p.URL, asItStands(t, expr))
		if err != nil {
			t.Errorf("%s: %s: %v", name, asItStands(t, expr), err)
			continue
		}
		if diff := apart(got, want); diff != "" {
			t.Errorf("%s: %s\n%s", name, expr, diff)
		}
		empty[name] = len(got) == 0
		if why, is := fallow[name]; empty[name] != is {
			t.Errorf("%s: %s\ngives %d series: %s", name, expr, len(got), why)
		}
	}
	nativeAgrees(t, native, page, "fail2ban_protection_gap_seconds", "fail2ban_reoffence_delay_seconds")
}

var exampleRow = regexp.MustCompile("^\\| `(fail2ban_[a-z_]+)` \\|.* \\| `([^`]+)` \\|$")

// exampleQueries are the examples of docs/metrics.md by their metric.
func exampleQueries(t *testing.T) map[string]string {
	t.Helper()
	root, err := lab.Root()
	must(t, err)
	f, err := os.Open(filepath.Join(root, "docs", "metrics.md"))
	must(t, err)
	defer f.Close()
	out := map[string]string{}
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if m := exampleRow.FindStringSubmatch(sc.Text()); m != nil {
			out[m[1]] = m[2]
		}
	}
	if len(out) < 59 {
		t.Fatalf("%d examples", len(out))
	}
	return out
}

var risen = regexp.MustCompile(`(increase|rate)\((\w+(?:\{[^}]*\})?)\[(\w+)\]\)`)

// asItStands is a query about how much counters rose, asked about what they have.
func asItStands(t *testing.T, expr string) string {
	t.Helper()
	return risen.ReplaceAllStringFunc(expr, func(s string) string {
		m := risen.FindStringSubmatch(s)
		span, err := model.ParseDuration(m[3])
		must(t, err)
		if m[1] == "increase" {
			return m[2]
		}
		return fmt.Sprintf("(%s / %v)", m[2], time.Duration(span).Seconds())
	})
}

// apart compares answers: what rose is extrapolated by up to a scrape's pause.
func apart(got, want []lab.Sample) string {
	by := func(samples []lab.Sample) map[string]float64 {
		out := map[string]float64{}
		for _, s := range samples {
			delete(s.Labels, model.MetricNameLabel)
			out[fmt.Sprint(s.Labels)] = s.Value
		}
		return out
	}
	a, b := by(got), by(want)
	var diff strings.Builder
	for k, v := range b {
		if w, ok := a[k]; !ok || math.Abs(v-w) > 0.1*math.Abs(v)+1e-9 && !math.IsNaN(v) {
			fmt.Fprintf(&diff, "%s: %v, want %v\n", k, w, v)
		}
	}
	for k, v := range a {
		if _, ok := b[k]; !ok {
			fmt.Fprintf(&diff, "%s: %v, want none\n", k, v)
		}
	}
	return diff.String()
}

// settled waits until a Prometheus has what a page shows.
func settled(t *testing.T, p *lab.Server, page []lab.Sample) {
	t.Helper()
	poll(t, p, "has not scraped the last", func(ctx context.Context) error {
		for _, name := range []string{"fail2ban_log_events_total", "fail2ban_lost_bans_total", "fail2ban_unbans_total", "fail2ban_bans_total", "fail2ban_offender_network_score"} {
			got, err := lab.QueryPrometheus(ctx, p.URL, fmt.Sprintf("sum(%s)", name))
			if err != nil {
				return err
			}
			if want := lab.Sum(page, name); len(got) != 1 || got[0].Value != want {
				return fmt.Errorf("%s: %v, want %v", name, got, want)
			}
		}
		return nil
	})
}

// agreesWithReport holds the page against `report jails` of the same log.
func agreesWithReport(t *testing.T, page []lab.Sample, file string) {
	t.Helper()
	rows, err := csv.NewReader(strings.NewReader(succeed(t, "report", "jails", "--config.file", file, "--format", "csv", "--from", "now-1h"))).ReadAll()
	must(t, err)
	for column, metric := range map[string]string{
		"bans": "fail2ban_bans_total", "restored_bans": "fail2ban_restored_bans_total", "failures": "fail2ban_failures_total",
		"lost_bans": "fail2ban_lost_bans_total", "reoffences": "fail2ban_reoffences_total",
	} {
		at, sum := slices.Index(rows[0], column), 0.0
		for _, row := range rows[1:] {
			n, err := strconv.ParseFloat(row[at], 64)
			must(t, err)
			sum += n
		}
		if got := lab.Sum(page, metric); got != sum || sum == 0 && column != "lost_bans" {
			t.Errorf("%s: %v, report says %v", metric, got, sum)
		}
	}
}

// nativeAgrees asks a Prometheus that takes native histograms: they tell hosts
// apart, and together have what the classic ones have.
func nativeAgrees(t *testing.T, p *lab.Server, page []lab.Sample, names ...string) {
	t.Helper()
	for _, name := range names {
		poll(t, p, "has other native histograms", func(ctx context.Context) error {
			for expr, want := range map[string]float64{
				"histogram_count(sum(" + name + "))": lab.Sum(page, name+"_count"), "histogram_sum(sum(" + name + "))": lab.Sum(page, name+"_sum"),
				"sum(" + name + "_count)": lab.Sum(page, name+"_count"),
			} {
				got, err := lab.QueryPrometheus(ctx, p.URL, expr)
				if err != nil {
					return err
				}
				if len(got) != 1 || math.Abs(got[0].Value-want) > 1e-6 || want == 0 {
					return fmt.Errorf("%s: %v, want %v", expr, got, want)
				}
			}
			return nil
		})
		hosts, err := lab.QueryPrometheus(t.Context(), p.URL, "histogram_quantile(0.95, sum by (host) ("+name+")) > 0")
		if err != nil || len(hosts) == 0 {
			t.Errorf("%s by host: %v, %v", name, hosts, err)
		}
	}
}
