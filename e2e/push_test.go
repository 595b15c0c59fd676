package e2e

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"fail2ban-loki-exporter/e2e/internal/lab"
)

// brief keeps a start from reading back a month of findings.
const brief = "offenders: {window: 2h}\n"

const ownJob = `{job="fail2ban-loki-exporter"}`

// findingsIn gives the findings in a Loki, each by its id and its line.
func findingsIn(ctx context.Context, url, tenant, query string) ([]string, error) {
	entries, err := lab.QueryLoki(ctx, url, tenant, query, time.Now().Add(-48*time.Hour), time.Now().Add(time.Hour))
	var all []string
	for _, e := range entries {
		all = append(all, e.Metadata["finding_id"]+" "+e.Line)
	}
	slices.Sort(all)
	return all, err
}

// An ingester tells no error of a stream that another one follows in the same
// request: why findings are pushed one stream at a time.
func TestLokiHidesErrors(t *testing.T) {
	const tenant = "hidden-errors"
	labels := func(_ int, l lab.Line) map[string]string { return map[string]string{"host": l.Host} }
	now := time.Now()
	line := func(host string, age time.Duration) lab.Line {
		return lab.Line{Host: host, Time: now.Add(-age), Text: fmt.Sprint(host, " ", age)}
	}
	send := func(lines ...lab.Line) error { return lab.Push(t.Context(), loki.URL, tenant, labels, lines) }
	if err := send(line("a", 0)); err != nil {
		t.Fatal(err)
	}
	if err := send(line("a", 2*time.Hour)); err == nil || !strings.Contains(err.Error(), "too far behind") {
		t.Fatalf("alone: %v", err)
	}
	if err := send(line("a", 3*time.Hour), line("b", 0)); err != nil {
		t.Fatalf("this Loki tells the error: %v; then several streams may share a push", err)
	}
	entries, err := lab.QueryLoki(t.Context(), loki.URL, tenant, `{host=~".+"}`, now.Add(-24*time.Hour), now.Add(time.Hour))
	if err != nil || len(entries) != 2 {
		t.Fatalf("%d entries, %v: the second host's and the first one's newest", len(entries), err)
	}
}

// A Loki with tight limits loses what the counters name, and nothing else: what
// was pushed to one without is there or counted. Where only the rate is limited, all arrives.
func TestTightLimits(t *testing.T) {
	for _, c := range []struct {
		name      string
		recording string
		limits    map[string]string
		client    string
		refused   float64 // pushes that are refused as a whole, at least
		reasons   []string
	}{
		{
			name: "rate", recording: "burst-500", refused: 1,
			limits: map[string]string{"ingestion_rate_mb": "0.1", "ingestion_burst_size_mb": "0.2", "per_stream_rate_limit": "80KB", "per_stream_rate_limit_burst": "160KB"},
		},
		{
			name: "age and size", recording: "multihost", reasons: []string{"too_old", "too_large"},
			limits: map[string]string{"reject_old_samples": "true", "reject_old_samples_max_age": "6m30s", "max_line_size": "380B", "ingestion_rate_mb": "0.2", "ingestion_burst_size_mb": "0.3"},
		},
		{
			name: "labels", recording: "multihost", reasons: []string{"labels"},
			limits: map[string]string{"max_label_names_per_series": "4"}, client: "external_labels: {a: x, b: y, c: z}",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			tight, err := lab.StartLoki(t.Context(), lab.LokiOptions{Auth: true, Limits: c.limits})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(tight.Stop)
			tenant, _ := pushNow(t, c.recording)
			client := fmt.Sprintf("  - url: %q\n    tenant_id: %q\n    backoff_config: {min_period: 20ms, max_period: 200ms, max_retries: 4}\n    %s\n", tight.URL, tenant, c.client)
			s := daemon(t, config{tenant: tenant, push: true, lookback: "2h", more: brief, clients: client})
			drops, refused := map[string]float64{}, 0.0
			balanced := func(ctx context.Context) error {
				said, err := findingsIn(ctx, loki.URL, tenant, ownJob)
				if err != nil {
					return err
				}
				there, err := findingsIn(ctx, tight.URL, tenant, ownJob)
				if err != nil {
					return err
				}
				samples, err := lab.Scrape(ctx, s.URL+"/metrics")
				if err != nil {
					return err
				}
				clear(drops)
				dropped := 0.0
				for _, m := range samples {
					if m.Name == "fail2ban_exporter_sink_batches_total" && m.Labels["sink"] == "loki-1" && m.Labels["result"] == "failed" {
						refused = m.Value
					}
					if m.Name == "fail2ban_exporter_sink_dropped_total" && m.Labels["sink"] == "loki-1" && m.Value > 0 {
						drops[m.Labels["reason"]] = m.Value
						dropped += m.Value
					}
				}
				if len(said) == 0 || len(said)-len(there) != int(dropped) {
					return fmt.Errorf("%d said, %d there, dropped %v", len(said), len(there), drops)
				}
				return nil
			}
			poll(t, s, "does not balance", func(ctx context.Context) error {
				if _, err := lab.Get(ctx, s.URL+"/-/ready"); err != nil {
					return err
				}
				return balanced(ctx)
			})
			if got := slices.Sorted(maps.Keys(drops)); !slices.Equal(got, slices.Sorted(slices.Values(c.reasons))) {
				t.Errorf("dropped %v, want reasons %v", drops, c.reasons)
			}
			if refused < c.refused {
				t.Errorf("%v pushes refused, want %v or more: the limit is not tight", refused, c.refused)
			}
			said, _ := findingsIn(t.Context(), loki.URL, tenant, ownJob)
			there, _ := findingsIn(t.Context(), tight.URL, tenant, ownJob)
			t.Logf("%d said, %d there, dropped %v", len(said), len(there), drops)
		})
	}
}

// stepBack ends a recording so long ago that all its verdicts are settled.
func stepBack(t *testing.T, name string) (tenant string, r *lab.Recording) {
	t.Helper()
	tenant = strings.NewReplacer("/", "-", " ", "-").Replace(t.Name())
	r = load(t, name).EndAt(time.Now().Add(-30 * time.Minute))
	push(t, tenant, r)
	return tenant, r
}

// ofKind are the findings that are rows of a kind of report.
var ofKind = map[string]string{"restores": "restore", "restarts": "restart", "lost": "lost_ban", "reoffences": "reoffence", "bans": "ban"}

// comparable makes of a row of a report what a daemon must have said, too;
// empty where it may still wait: all recordings end with a stop, after which a
// report says that nothing will come, and a daemon waits for the next start. For
// the same reason a report knows of later failures.
func comparable(header, row []string) string {
	get := func(name string) string {
		if i := slices.Index(header, name); i >= 0 {
			return row[i]
		}
		return ""
	}
	if by := get("ended_by"); by == "open" || by == "expected" || get("scope") != "" && get("ended_meanwhile") != "0" {
		return ""
	}
	if i := slices.Index(header, "next_failure_seconds"); i >= 0 {
		row = slices.Delete(slices.Clone(row), i, i+1)
	}
	return strings.Join(row, " ")
}

// reported are the rows of a report, by kind.
type reported map[string]struct{ header, rows []string }

// reportOf asks for what is compared with the findings.
func reportOf(t *testing.T, file string) reported {
	t.Helper()
	r := reported{}
	now := time.Now().UTC()
	for kind := range ofKind {
		header, rows := csvRows(t, succeed(t, "report", kind, "--config.file", file, "--format", "csv",
			"--from", now.Add(-2*time.Hour).Format(time.RFC3339), "--to", now.Format(time.RFC3339)))
		one := r[kind]
		one.header = header
		for _, row := range rows {
			if line := comparable(header, row); line != "" {
				one.rows = append(one.rows, line)
			}
		}
		r[kind] = one
	}
	return r
}

// inLoki compares what is in Loki with the report, row by row.
func (r reported) inLoki(ctx context.Context, tenant string) error {
	for kind, want := range r {
		query := fmt.Sprintf("%s | finding=%q", ownJob, ofKind[kind])
		if kind == "bans" {
			query += ` != "state=open"`
		}
		entries, err := lab.QueryLoki(ctx, loki.URL, tenant, query, time.Now().Add(-48*time.Hour), time.Now())
		if err != nil {
			return err
		}
		var got []string
		for _, e := range entries {
			var row []string
			for i, field := range strings.Fields(e.Line)[1:] {
				name, value, _ := strings.Cut(field, "=")
				if name != want.header[i] {
					return fmt.Errorf("%s: %s stands where %s is in the report: %s", kind, name, want.header[i], e.Line)
				}
				row = append(row, value)
			}
			if line := comparable(want.header, row); line != "" {
				got = append(got, line)
			}
		}
		if err := differ(want.rows, got); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
	}
	return nil
}

// becomes waits until a daemon's findings are those of the report.
func (r reported) becomes(t *testing.T, s *lab.Server, tenant string) {
	t.Helper()
	var last error
	defer func() {
		if t.Failed() {
			t.Log(last)
		}
	}()
	poll(t, s, "does not say what the report says", func(ctx context.Context) error {
		err := r.inLoki(ctx, tenant)
		if ctx.Err() == nil {
			last = err
		}
		return err
	})
}

// csvRows reads a report.
func csvRows(t *testing.T, report string) (header []string, rows [][]string) {
	t.Helper()
	all, err := csv.NewReader(strings.NewReader(report)).ReadAll()
	if err != nil || len(all) == 0 {
		t.Fatalf("%v, %d rows", err, len(all))
	}
	return all[0], all[1:]
}

// differ tells what one sorted list has more often than the other.
func differ(want, got []string) error {
	count := map[string]int{}
	for _, x := range want {
		count[x]++
	}
	for _, x := range got {
		count[x]--
	}
	var b strings.Builder
	for _, x := range slices.Sorted(maps.Keys(count)) {
		if n := count[x]; n != 0 {
			fmt.Fprintf(&b, "%+d %s\n", -n, x)
		}
	}
	if b.Len() == 0 {
		return nil
	}
	return fmt.Errorf("%d wanted, %d found:\n%s", len(want), len(got), b.String())
}

// Two replicas side by side, and one that starts anew without state, leave in
// Loki what `report` says: each row once.
func TestReplicas(t *testing.T) {
	for _, name := range []string{"multihost", "soak"} {
		t.Run(name, func(t *testing.T) {
			tenant, _ := stepBack(t, name)
			c := config{tenant: tenant, push: true, lookback: "2h", more: brief}
			want := reportOf(t, c.write(t))
			a, b := daemon(t, c), daemon(t, c)
			want.becomes(t, a, tenant)
			want.becomes(t, b, tenant)
			b.Stop()
			third := daemon(t, c)
			metricsBecome(t, third, func([]lab.Sample) error { return nil })
			third.Stop()
			if err := want.inLoki(t.Context(), tenant); err != nil {
				t.Errorf("after a start without state: %v", err)
			}
		})
	}
}

// A start without state and with a shorter look-back, which sees the bans
// without their beginning, says nothing a second time in another form.
func TestRebuildWithAnotherLookback(t *testing.T) {
	tenant, r := stepBack(t, "soak")
	long := config{tenant: tenant, push: true, lookback: "2h", more: brief}
	want := reportOf(t, long.write(t))
	first := daemon(t, long)
	want.becomes(t, first, tenant)
	first.Stop()
	said, err := findingsIn(t.Context(), loki.URL, tenant, ownJob)
	if err != nil {
		t.Fatal(err)
	}
	half := r.End().Sub(r.Lines()[0].Time) / 2
	short := daemon(t, config{tenant: tenant, push: true, more: brief, lookback: (time.Since(r.End()) + half).Truncate(time.Second).String()})
	metricsBecome(t, short, func([]lab.Sample) error { return nil })
	poll(t, short, "does not read back what was said before", func(context.Context) error {
		if log := short.Log(); !strings.Contains(log, "read back what was said before") {
			return errors.New(log)
		}
		return nil
	})
	short.Stop()
	again, err := findingsIn(t.Context(), loki.URL, tenant, ownJob)
	if err != nil {
		t.Fatal(err)
	}
	if err := differ(said, again); err != nil {
		t.Error(err)
	}
}
