package e2e

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"fail2ban-loki-exporter/e2e/internal/lab"
)

// totals are the metrics that depend on the log alone, not on when or by whom
// it is read.
func totals(samples []lab.Sample) map[string]float64 {
	out := map[string]float64{}
	for _, s := range samples {
		switch {
		case !strings.HasPrefix(s.Name, "fail2ban_"), strings.HasPrefix(s.Name, "fail2ban_exporter_") && s.Name != "fail2ban_exporter_lines_total",
			s.Name == "fail2ban_offender_score", s.Name == "fail2ban_offender_network_score", s.Labels["result"] == "duplicate":
			continue
		}
		labels := maps.Clone(s.Labels)
		delete(labels, "source")
		out[s.Name+fmt.Sprint(labels)] = s.Value
	}
	return out
}

// differences names up to ten metrics that are not the same.
func differences(got, want map[string]float64) error {
	var all []string
	for name := range want {
		if g, ok := got[name]; !ok || g != want[name] {
			all = append(all, fmt.Sprintf("%s is %v, not %v", name, g, want[name]))
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			all = append(all, fmt.Sprintf("%s is %v, it was not there", name, got[name]))
		}
	}
	if len(all) == 0 {
		return nil
	}
	slices.Sort(all)
	return fmt.Errorf("%d differences: %s", len(all), strings.Join(all[:min(10, len(all))], "; "))
}

// found are the findings of a tenant, as they stand in Loki.
func found(t *testing.T, tenant string, from, to time.Time) (out []string) {
	t.Helper()
	entries, err := lab.QueryLoki(t.Context(), loki.URL, tenant, `{job="fail2ban-loki-exporter", host!=""}`, from, to)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		out = append(out, e.Time.Format(time.RFC3339Nano)+" "+e.Labels["host"]+" "+e.Metadata["finding_id"]+" "+e.Line)
	}
	slices.Sort(out)
	return out
}

// sameFindings fails the test where a finding is missing, twice, or another.
func sameFindings(t *testing.T, got, want []string) {
	t.Helper()
	if len(want) == 0 {
		t.Error("there are no findings at all")
	}
	if slices.Equal(got, want) {
		return
	}
	t.Errorf("%d findings, undisturbed there were %d", len(got), len(want))
	missing, more := 0, 0
	for _, f := range want {
		if !slices.Contains(got, f) && missing < 3 {
			missing++
			t.Errorf("missing: %s", f)
		}
	}
	for _, f := range got {
		if !slices.Contains(want, f) && more < 3 {
			more++
			t.Errorf("not there before: %s", f)
		}
	}
}

// An exporter that is killed again and again while a fleet is attacked comes
// to the same totals, and leaves the same findings, as one left alone: with
// its state, and where the state is deleted too. KILLS says how often.
func TestKilled(t *testing.T) {
	kills, err := strconv.Atoi(os.Getenv("KILLS"))
	if err != nil {
		kills = 5
	}
	past := load(t, "multihost").EndAt(time.Now().Add(-3 * time.Hour)) // all of it is settled, whenever one looks
	live := load(t, "clean-restart").Rename("git-1")
	if kills > 10 {
		live = load(t, "soak").Rename("git-1")
	}
	lines := live.Lines()
	live = live.EndAt(time.Now().Add(lines[len(lines)-1].Time.Sub(lines[0].Time) + 2*time.Second))
	calm, wild := "killed-calm", "killed-wild"
	for _, tenant := range []string{calm, wild} {
		push(t, tenant, past)
	}
	playing, stop := context.WithCancel(t.Context())
	defer stop()
	played := make(chan error, 2)
	for _, tenant := range []string{calm, wild} {
		go func() { played <- lab.Play(playing, loki.URL, tenant, lab.Spread(3), live.Lines()) }()
	}
	reading := "lag: 2s\n    max_lateness: 1h\n    audit_interval: 1s"
	undisturbed := daemonOf(t, config{tenant: calm, push: true, source: reading}.write(t))

	state := filepath.Join(t.TempDir(), "state")
	file := config{tenant: wild, push: true, source: reading, state: state}.write(t)
	r := rand.New(rand.NewPCG(uint64(kills), 7))
	length := time.Until(live.End()) / time.Duration(kills)
	for i := range kills {
		s := daemonOf(t, file)
		select { // at any moment, whatever it is doing
		case <-time.After(time.Duration(r.Int64N(int64(2 * length)))):
		case <-t.Context().Done():
		}
		s.Kill()
		if i%5 == 3 {
			os.Remove(state)
		}
	}
	s := daemonOf(t, file)
	for range 2 {
		if err := <-played; err != nil {
			t.Fatal(err)
		}
	}
	caughtUp(t, undisturbed, live.End())
	caughtUp(t, s, live.End())
	var want, got map[string]float64
	poll(t, s, "has other totals", func(ctx context.Context) error {
		a, err := lab.Scrape(ctx, undisturbed.URL+"/metrics")
		if err != nil {
			return err
		}
		b, err := lab.Scrape(ctx, s.URL+"/metrics")
		if err != nil {
			return err
		}
		want, got = totals(a), totals(b)
		return differences(got, want)
	})
	undisturbed.Stop()
	s.Stop()
	from, to := past.Lines()[0].Time.Add(-time.Minute), time.Now()
	want2 := found(t, calm, from, to)
	sameFindings(t, found(t, wild, from, to), want2)
	t.Logf("%d kills; %d metrics and %d findings are the same", kills, len(want), len(want2))
}

// caughtUp waits until the log has been read up to a time, and what was found
// there has been pushed.
func caughtUp(t *testing.T, s *lab.Server, to time.Time) {
	t.Helper()
	reaches(t, s, "fail2ban_exporter_committed_timestamp_seconds", to)
}

func reaches(t *testing.T, s *lab.Server, metric string, to time.Time) {
	t.Helper()
	poll(t, s, "has not read all", func(ctx context.Context) error {
		samples, err := lab.Scrape(ctx, s.URL+"/metrics")
		if err != nil {
			return err
		}
		if at := lab.Sum(samples, metric); at < float64(to.Unix()+1) {
			return fmt.Errorf("it is at %v", at)
		}
		return nil
	})
}

// caughtUpReading waits until the log has been read up to a time, whoever takes
// what was found.
func caughtUpReading(t *testing.T, s *lab.Server, to time.Time) {
	t.Helper()
	reaches(t, s, "fail2ban_exporter_cursor_timestamp_seconds", to)
}

// meter is a proxy before Loki that measures the answers that hold log lines.
type meter struct {
	*httptest.Server
	logs, counts, queries atomic.Int64 // bytes of log lines, bytes of counts, counting queries
}

func newMeter(t *testing.T) *meter {
	t.Helper()
	target, err := url.Parse(loki.URL)
	if err != nil {
		t.Fatal(err)
	}
	m := &meter{}
	p := httputil.NewSingleHostReverseProxy(target)
	p.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0) // of requests that were given up
	p.ModifyResponse = func(r *http.Response) error {
		switch {
		case strings.HasSuffix(r.Request.URL.Path, "/query_range"):
			r.Body = &counted{r.Body, &m.logs}
		case strings.HasSuffix(r.Request.URL.Path, "/query"):
			m.queries.Add(1)
			r.Body = &counted{r.Body, &m.counts}
		}
		return nil
	}
	m.Server = httptest.NewServer(p)
	t.Cleanup(m.Close)
	return m
}

type counted struct {
	io.ReadCloser
	n *atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// Three hosts, one of them shipped 50 minutes late, lines shuffled within five
// seconds, one in a hundred sent twice: all totals are as if each line had been
// there in time, and hardly a byte more is read than once.
func TestLateHost(t *testing.T) {
	r := load(t, "multihost").EndAt(time.Now().Add(-48 * time.Minute))
	lines := r.Lines()
	rng := rand.New(rand.NewPCG(3, 4))
	shuffled := slices.Clone(lines)
	for _, l := range lines {
		if rng.IntN(100) == 0 {
			shuffled = append(shuffled, l)
		}
	}
	order := map[int]time.Time{}
	index := make([]int, len(shuffled))
	for i, l := range shuffled {
		index[i], order[i] = i, l.Time.Add(time.Duration(rng.IntN(5000))*time.Millisecond)
	}
	slices.SortFunc(index, func(a, b int) int { return order[a].Compare(order[b]) })
	var onTime, late []lab.Line
	for _, i := range index {
		if shuffled[i].Host == "web-2" {
			late = append(late, shuffled[i])
		} else {
			onTime = append(onTime, shuffled[i])
		}
	}
	one := lab.Spread(1)
	ship := func(tenant string, lines []lab.Line) {
		t.Helper()
		if err := lab.Push(t.Context(), loki.URL, tenant, one, lines); err != nil {
			t.Fatal(err)
		}
	}
	// what it must come to: all there before the exporter is
	ship("late-before", shuffled)
	plain := newMeter(t)
	before := daemonOf(t, config{url: plain.URL, tenant: "late-before", push: true, source: "max_lateness: 1h"}.write(t))
	caughtUp(t, before, time.Now().Add(-20*time.Second))
	samples, err := lab.Scrape(t.Context(), before.URL+"/metrics")
	if err != nil {
		t.Fatal(err)
	}
	want := totals(samples)
	before.Stop()
	once := plain.logs.Load()

	ship("late-after", onTime)
	m := newMeter(t)
	s := daemonOf(t, config{url: m.URL, tenant: "late-after", push: true, source: "max_lateness: 1h"}.write(t))
	caughtUp(t, s, time.Now().Add(-20*time.Second))
	ship("late-after", late)
	poll(t, s, "does not take the late lines", func(ctx context.Context) error {
		samples, err := lab.Scrape(ctx, s.URL+"/metrics")
		if err != nil {
			return err
		}
		if n := lab.Sum(samples, "fail2ban_exporter_late_lines_total"); n == 0 {
			return fmt.Errorf("%v late lines", n)
		}
		return differences(totals(samples), want)
	})
	samples, err = lab.Scrape(t.Context(), s.URL+"/metrics")
	if err != nil {
		t.Fatal(err)
	}
	if n := lab.Sum(samples, "fail2ban_exporter_revised_verdicts_total"); n != 0 {
		t.Errorf("%v verdicts were revised", n)
	}
	s.Stop()
	sameFindings(t, found(t, "late-after", r.Lines()[0].Time, time.Now()), found(t, "late-before", r.Lines()[0].Time, time.Now()))
	share := float64(m.logs.Load()) / float64(once)
	t.Logf("%v late lines; log answers %d bytes, %d when all was there before: %.2f; %d counting queries with %d bytes",
		lab.Sum(samples, "fail2ban_exporter_late_lines_total"), m.logs.Load(), once, share, m.queries.Load(), m.counts.Load())
	if share > 1.25 {
		t.Errorf("%.2f times the bytes were read", share)
	}
}

// A thousand hosts are followed with the same few small queries as three; one
// that is late costs no more than its own lines and the counts of all.
func TestThousandHosts(t *testing.T) {
	const tenant, away = "thousand", "web-500"
	now := time.Now().UTC()
	fleet := lab.Fleet{Hosts: 1000, Jails: 1, Days: 1, Lines: 150_000, From: now.Add(-2 * time.Hour), Seed: 3}
	var lines, late []lab.Line
	for l := range fleet.All(lab.FleetTruth{}) {
		if l.Time.After(now) {
			break
		}
		if l.Host == away {
			late = append(late, l)
		} else {
			lines = append(lines, l)
		}
	}
	must(t, lab.Push(t.Context(), loki.URL, tenant, lab.Spread(1), lines))
	m := newMeter(t)
	s := daemonOf(t, config{url: m.URL, tenant: tenant, lookback: "3h", source: "max_lateness: 3h"}.write(t))
	caughtUp(t, s, time.Now().Add(-20*time.Second))
	cost := func() (queries, counts, logs int64) { return m.queries.Load(), m.counts.Load(), m.logs.Load() }
	queries, counts, logs := cost()
	start := time.Now()
	caughtUp(t, s, start.Add(10*time.Second))
	q, c, l := cost()
	polls := q - queries
	if polls < 5 {
		t.Fatalf("%d counting queries", polls)
	}
	t.Logf("%d hosts, %d lines: %d polls, %d bytes of counts and %d of logs each", fleet.Hosts, len(lines), polls, (c-counts)/polls, (l-logs)/polls)
	if perPoll := (c - counts + l - logs) / polls; perPoll > 20_000 || float64(polls) > 2*time.Since(start).Seconds()+2 {
		t.Errorf("%d polls of %d bytes", polls, perPoll)
	}
	queries, counts, logs = cost()
	must(t, lab.Push(t.Context(), loki.URL, tenant, lab.Spread(1), late))
	metricsBecome(t, s, func(samples []lab.Sample) error {
		if n := lab.Sum(samples, "fail2ban_exporter_late_lines_total"); int(n) != len(late) {
			return fmt.Errorf("%v late lines of %d", n, len(late))
		}
		return nil
	})
	q, c, l = cost()
	t.Logf("%d late lines of one host: %d queries with %d bytes of counts, %d bytes of logs", len(late), q-queries, c-counts, l-logs)
	s.Stop()
}

// A Loki that remembers where it found nothing is asked anew: what came since,
// with old times, is there.
func TestLokiThatRemembersEmptiness(t *testing.T) {
	server, err := lab.StartLoki(t.Context(), lab.LokiOptions{Cache: true, Limits: map[string]string{"max_cache_freshness_per_query": "1s"}})
	must(t, err)
	t.Cleanup(server.Stop)
	r := load(t, "clean-restart").EndAt(time.Now().Add(-6 * time.Hour))
	begin := r.Lines()[0].Time.Add(-time.Minute)
	file := config{url: server.URL, query: `{job="fail2ban"} |= "fail2ban"`}.write(t) // emptiness is remembered of queries that filter
	report := []string{"report", "restores", "--format", "csv", "--from", begin.Format(time.RFC3339), "--to", r.End().Add(time.Minute).Format(time.RFC3339), "--config.file", file}
	if out := succeed(t, report...); strings.Count(out, "\n") > 1 {
		t.Fatalf("the empty Loki has restores:\n%s", out)
	}
	must(t, lab.Push(t.Context(), server.URL, "", lab.Spread(1), r.Lines()))
	if got, want := strings.Count(succeed(t, report...), "\n")-1, r.CountLines(restoreLine); got != want {
		t.Errorf("%d restores, the log has %d", got, want)
	}
}

// A host that was cut off for two days ships what it logged meanwhile, when its
// silence has long settled what it had said before: the totals become right,
// and the counters say what came.
func TestHostCutOff(t *testing.T) {
	r := load(t, "multihost").EndAt(time.Now().Add(-48 * time.Hour))
	var first, rest []lab.Line
	for _, l := range r.Lines() {
		if l.Host == "web-1" && l.Time.After(r.End().Add(-2*time.Minute)) {
			rest = append(rest, l)
		} else {
			first = append(first, l)
		}
	}
	ship := func(tenant string, lines []lab.Line) {
		t.Helper()
		if err := lab.Push(t.Context(), loki.URL, tenant, lab.Spread(1), lines); err != nil {
			t.Fatal(err)
		}
	}
	source := "max_lateness: 2m\n    audit_interval: 1s"
	run := func(tenant string) *lab.Server {
		s := daemonOf(t, config{tenant: tenant, source: source}.write(t))
		caughtUp(t, s, time.Now().Add(-20*time.Second))
		return s
	}
	ship("cut-before", first)
	ship("cut-before", rest)
	before := run("cut-before")
	samples, err := lab.Scrape(t.Context(), before.URL+"/metrics")
	if err != nil {
		t.Fatal(err)
	}
	want := totals(samples)
	before.Stop()

	ship("cut-after", first)
	s := run("cut-after")
	ship("cut-after", rest)
	poll(t, s, "does not find the backlog", func(ctx context.Context) error {
		samples, err = lab.Scrape(ctx, s.URL+"/metrics")
		if err != nil {
			return err
		}
		if n := lab.Sum(samples, "fail2ban_exporter_late_lines_total"); n != float64(len(rest)) {
			return fmt.Errorf("%v late lines of %d", n, len(rest))
		}
		more := 0.0
		got := totals(samples)
		for name, n := range want {
			switch g, ok := got[name]; {
			case !ok || g < n:
				return fmt.Errorf("%s is %v, not %v", name, g, n)
			case strings.Contains(name, "_total"):
				more += g - n // told before the backlog came, and taken back
			}
		}
		if revised := lab.Sum(samples, "fail2ban_exporter_revised_verdicts_total"); more > revised {
			return fmt.Errorf("%v more than there was, %v revised", more, revised)
		}
		return nil
	})
	t.Logf("%v late lines, %v verdicts revised", lab.Sum(samples, "fail2ban_exporter_late_lines_total"), lab.Sum(samples, "fail2ban_exporter_revised_verdicts_total"))
}
