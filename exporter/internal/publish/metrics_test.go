package publish

import (
	"bufio"
	"cmp"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"fail2ban-loki-exporter/exporter/internal/correlate"
	"fail2ban-loki-exporter/exporter/internal/offender"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"
)

func view() *View {
	return &View{At: at("22:00:00.000"), Sources: []SourceReport{{Name: "main", Report: report()}}, Offenders: offenders(), Tracked: 321, Repeat: 45, CaughtUp: true, Networks: networkRows(), Countries: map[string]uint64{"NL": 12, "": 3}, Jails: []JailOutlook{
		{Source: "main", Jail: "recidive", Suggested: correlate.Known(time.Duration(-1))},
		{Source: "main", Jail: "sshd", Survival: [4]correlate.Maybe[float64]{correlate.Known(.9), correlate.Known(.5), {}, {}}, Suggested: correlate.Known(24 * time.Hour)},
	}}
}

// served is the metrics' page.
func served(t *testing.T, m *Metrics) string {
	t.Helper()
	families, err := m.Gather()
	if err != nil {
		t.Fatal(err)
	}
	wellFormed(t, families)
	return pageOf(t, m)
}

func pageOf(t *testing.T, g prometheus.Gatherer) string {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatalf("gather: %v", err)
	}
	var b strings.Builder
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
			t.Fatalf("write: %v", err)
		}
	}
	return b.String()
}

// everything is a registry with the domain metrics and our own, each with a series.
func everything() (prometheus.Gatherer, *Self) {
	reg := prometheus.NewPedanticRegistry()
	self := NewSelf(reg)
	m := NewMetrics(MetricsOptions{}, self)
	m.Set(view())
	self.Count(LokiOptions{})
	self.BackfillProgress.WithLabelValues("loki").Set(1)
	self.LokiRequests.WithLabelValues("200").Add(3)
	self.LokiDuration.Observe(.2)
	return Join(reg, m), self
}

func TestMetricsPage(t *testing.T) {
	reg, _ := everything()
	var lines []string
	for line := range strings.Lines(pageOf(t, reg)) {
		if !strings.HasPrefix(line, "fail2ban_exporter_build_info{") { // differs by toolchain
			lines = append(lines, line)
		}
	}
	golden(t, "metrics.prom", strings.Join(lines, ""))
}

func TestMetricsLint(t *testing.T) {
	reg, _ := everything()
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatalf("lint: %v", err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// docs/metrics.md and the code name the same metrics, with the same type,
// labels and meaning.
func TestMetricsDoc(t *testing.T) {
	reg, _ := everything()
	want := map[string]string{}
	families, err := reg.Gather()
	if err != nil {
		t.Fatalf("gather: %v", err)
	}
	for _, f := range families {
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		slices.Sort(labels)
		want[f.GetName()] = strings.Join([]string{strings.ToLower(f.GetType().String()), strings.Join(labels, " "), f.GetHelp()}, " | ")
	}
	if diff := gocmp.Diff(want, documented(t)); diff != "" {
		t.Fatalf("docs/metrics.md (-code +doc):\n%s", diff)
	}
}

// documented reads the rows `name` | type | labels | meaning | … of the page.
func documented(t *testing.T) map[string]string {
	t.Helper()
	f, err := os.Open("../../../docs/metrics.md")
	if err != nil {
		t.Fatalf("read the page: %v", err)
	}
	defer f.Close()
	out := map[string]string{}
	for s := bufio.NewScanner(f); s.Scan(); {
		cells := strings.Split(s.Text(), " | ")
		if len(cells) != 7 || !strings.HasPrefix(cells[0], "| `fail2ban_") {
			continue
		}
		name := strings.Trim(cells[0], "| `")
		labels := strings.FieldsFunc(cells[2], func(r rune) bool { return strings.ContainsRune("`, –", r) })
		slices.Sort(labels)
		if !strings.Contains(cells[6], name) {
			t.Errorf("the example of %s does not use it: %s", name, cells[6])
		}
		if out[name] != "" {
			t.Errorf("%s stands there twice", name)
		}
		out[name] = strings.Join([]string{cells[1], strings.Join(labels, " "), cells[3]}, " | ")
	}
	return out
}

// Nothing of the log's is served while the back-fill runs, nor before any view.
func TestNothingBeforeCaughtUp(t *testing.T) {
	m := NewMetrics(MetricsOptions{}, nil)
	if got := served(t, m); got != "" {
		t.Fatalf("before the first view: %s", got)
	}
	v := view()
	v.CaughtUp = false
	m.Set(v)
	if got := served(t, m); got != "" {
		t.Fatalf("while catching up: %s", got)
	}
}

// lines are those of one metric.
func lines(page, metric string) string {
	var b strings.Builder
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, metric+"{") || strings.HasPrefix(line, metric+" ") || strings.HasPrefix(line, metric+"_count") {
			b.WriteString(line)
		}
	}
	return b.String()
}

func TestDetail(t *testing.T) {
	for _, c := range []struct{ detail, metric, want string }{
		{DetailJail, "fail2ban_failures_total", "{host=\"web1\",jail=\"recidive\"} 9\n{host=\"web1\",jail=\"sshd\"} 5118\n{host=\"web2\",jail=\"sshd\"} 900\n"},
		{DetailHost, "fail2ban_failures_total", "{host=\"web1\",jail=\"\"} 5127\n{host=\"web2\",jail=\"\"} 900\n"},
		{DetailFleet, "fail2ban_failures_total", "{host=\"\",jail=\"\"} 6027\n"},
		{DetailHost, "fail2ban_jail_bantime_seconds", ""},
		{DetailHost, "fail2ban_server_running", "{host=\"web1\"} 1\n{host=\"web2\"} 0\n"},
		{DetailFleet, "fail2ban_server_running", ""},
		{DetailFleet, "fail2ban_server_restarts_total", "{host=\"\",kind=\"clean\"} 8\n{host=\"\",kind=\"crash\"} 1\n{host=\"\",kind=\"unknown\"} 0\n"},
		{DetailFleet, "fail2ban_protection_gap_seconds", "_count{jail=\"recidive\"} 0\n_count{jail=\"sshd\"} 5\n"},
	} {
		m := NewMetrics(MetricsOptions{Detail: c.detail}, nil)
		m.Set(view())
		if diff := gocmp.Diff(c.want, strings.ReplaceAll(lines(served(t, m), c.metric), c.metric, "")); diff != "" {
			t.Errorf("%s at detail %s (-want +got):\n%s", c.metric, c.detail, diff)
		}
	}
}

// manyHosts is a view of so many hosts with so many jails, one failure each.
func manyHosts(hosts, jails int) *View {
	v := &View{CaughtUp: true, Sources: make([]SourceReport, 1)}
	for h := range hosts {
		host := correlate.HostReport{Host: fmt.Sprintf("host%03d", h)}
		for j := range jails {
			host.Jails = append(host.Jails, correlate.JailReport{Jail: fmt.Sprintf("jail%03d", j), Counts: correlate.Counts{Failures: 1}, MaxRetry: correlate.Known(3)})
		}
		v.Sources[0].Report.Hosts = append(v.Sources[0].Report.Hosts, host)
	}
	return v
}

func TestAutoDetail(t *testing.T) {
	m := NewMetrics(MetricsOptions{}, nil)
	for _, c := range []struct{ hosts, series int }{{100, 200}, {101, 101}, {50, 50}} {
		m.Set(manyHosts(c.hosts, 2))
		if got := strings.Count(lines(served(t, m), "fail2ban_failures_total"), "\n"); got != c.series {
			t.Fatalf("%d hosts: %d series, want %d", c.hosts, got, c.series)
		}
	}
}

// What does not fit goes into `other`; who had a series keeps it.
func TestLimits(t *testing.T) {
	self := NewSelf(prometheus.NewRegistry())
	m := NewMetrics(MetricsOptions{MaxHosts: 2, MaxJails: 1}, self)
	late := manyHosts(4, 2)
	late.Sources[0].Report.Hosts = late.Sources[0].Report.Hosts[2:]
	m.Set(late)
	m.Set(manyHosts(4, 2))
	page := served(t, m)
	want := ""
	for _, s := range []string{"host002,jail000 1", "host002,other 1", "host003,jail000 1", "host003,other 1", "other,jail000 2", "other,other 2"} {
		host, rest, _ := strings.Cut(s, ",")
		jail, n, _ := strings.Cut(rest, " ")
		want += fmt.Sprintf("fail2ban_failures_total{host=%q,jail=%q} %s\n", host, jail, n)
	}
	if diff := gocmp.Diff(want, lines(page, "fail2ban_failures_total")); diff != "" {
		t.Fatalf("series (-want +got):\n%s", diff)
	}
	if got := strings.Count(lines(page, "fail2ban_jail_maxretry"), "\n"); got != 2 {
		t.Fatalf("%d settings, want those of the two jails told apart", got)
	}
	if got := testutil.ToFloat64(self.SeriesLimited); got != 3 {
		t.Fatalf("limited %v times, want once for each of two hosts and one jail", got)
	}
	if got := testutil.ToFloat64(self.Series.WithLabelValues("fail2ban_failures_total")); got != 6 {
		t.Fatalf("series says %v", got)
	}
}

func TestSourceLabel(t *testing.T) {
	v := view()
	v.Sources = append(v.Sources, SourceReport{Name: "branch", Report: report()})
	m := NewMetrics(MetricsOptions{NameSource: true}, nil)
	m.Set(v)
	page := served(t, m)
	if want := "fail2ban_server_running{host=\"web1\",source=\"branch\"} 1\n"; !strings.Contains(page, want) {
		t.Fatalf("no %s in:\n%s", want, lines(page, "fail2ban_server_running"))
	}
	if want := "fail2ban_reoffence_delay_seconds_count{jail=\"sshd\",source=\"main\"} 2\n"; !strings.Contains(page, want) {
		t.Fatalf("no %s in:\n%s", want, lines(page, "fail2ban_reoffence_delay_seconds"))
	}
	if want := "fail2ban_offenders 321\n"; lines(page, "fail2ban_offenders") != want {
		t.Fatalf("offenders: %s", lines(page, "fail2ban_offenders"))
	}
}

// Whatever stands in ids, jails and hosts: the page is valid, and names that
// become equal share a series.
func TestHostileLabels(t *testing.T) {
	v := &View{CaughtUp: true, Sources: make([]SourceReport, 1)}
	for _, id := range append(slices.Clone(hostile), "bad\xfe\xffutf8") {
		v.Offenders = append(v.Offenders, offender.Row{ID: id, Bans: 1, LastBan: at("10:00:00.000")})
		v.Sources[0].Report.Hosts = append(v.Sources[0].Report.Hosts, correlate.HostReport{
			Host: id, Version: id, Running: correlate.Known(true), Jails: []correlate.JailReport{{Jail: id, Counts: correlate.Counts{Failures: 1}, MaxRetry: correlate.Known(1)}},
		})
	}
	m := NewMetrics(MetricsOptions{}, nil)
	m.Set(v)
	page := served(t, m)
	for line := range strings.Lines(page) {
		if strings.ContainsFunc(strings.TrimSuffix(line, "\n"), unprintable) {
			t.Fatalf("a terminal obeys %q", line)
		}
	}
	if got := lines(page, "fail2ban_failures_total"); !strings.Contains(got, "{host=\"bad\uFFFDutf8\",jail=\"bad\uFFFDutf8\"} 2\n") {
		t.Fatalf("equal names do not share a series:\n%s", got)
	}
	if got := strings.Count(lines(page, "fail2ban_offender_bans"), "\n"); got != len(hostile) {
		t.Fatalf("%d offenders, want %d", got, len(hostile))
	}
}

// A host's last line is shown for seven days.
func TestSilentHost(t *testing.T) {
	v := view()
	m := NewMetrics(MetricsOptions{}, nil)
	for after, want := range map[time.Duration]int{7 * 24 * time.Hour: 2, 7*24*time.Hour + 15*time.Minute: 1, 8 * 24 * time.Hour: 0} {
		v.At = at("21:00:00.000").Add(after)
		m.Set(v)
		if got := strings.Count(lines(served(t, m), "fail2ban_host_last_line_timestamp_seconds"), "\n"); got != want {
			t.Errorf("after %v: %d hosts, want %d", after, got, want)
		}
	}
}

// Scrapes and views may come at once.
func TestMetricsConcurrently(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := NewMetrics(MetricsOptions{}, NewSelf(reg))
	both := Join(reg, m)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 20 {
				m.Set(view())
				if _, err := both.Gather(); err != nil {
					t.Errorf("gather: %v", err)
				}
			}
		})
	}
	wg.Wait()
}

// forgetting is a view of three hosts and what befell them.
func forgetting(after time.Duration) *View {
	v := manyHosts(3, 2)
	v.At = at("00:00:00.000").Add(after)
	for h := range v.Sources[0].Report.Hosts {
		host := &v.Sources[0].Report.Hosts[h]
		host.FirstLine, host.LastLine = at("00:00:00.000").Add(-time.Hour), v.At
		for j := range host.Jails {
			host.Jails[j].FirstLine, host.Jails[j].LastLine, host.Jails[j].Running = host.FirstLine, v.At, correlate.Known(true)
			host.Jails[j].GapSeconds = histogram(correlate.GapBounds, 3)
		}
	}
	return v
}

// The series of a host that fell silent go after a time, and those of a jail that
// was stopped; sums that hold others too do not fall.
func TestForgetting(t *testing.T) {
	const week = 7 * 24 * time.Hour
	for _, c := range []struct {
		what    string
		after   time.Duration
		change  func(*View)
		options MetricsOptions
		hosts   int // with series of failures
		sum     int // of them
		gaps    int
	}{
		{"all are there", week + 1, func(*View) {}, MetricsOptions{}, 6, 6, 6},
		{"a silent host", week, silence(0), MetricsOptions{}, 6, 6, 6},
		{"a host silent for too long", week + 1, silence(0), MetricsOptions{}, 4, 4, 6},
		{"never forgotten", 10 * week, silence(0), MetricsOptions{ForgetAfter: -1}, 6, 6, 6},
		{"all are silent", week + 1, func(v *View) { silence(0)(v); silence(1)(v); silence(2)(v) }, MetricsOptions{}, 0, 0, 0},
		{"the fleet's sum holds it", week + 1, silence(0), MetricsOptions{Detail: DetailFleet}, 1, 6, 6},
		{"a quiet jail runs", week + 1, func(v *View) { v.Sources[0].Report.Hosts[1].Jails[0].LastLine = at("00:00:00.000") }, MetricsOptions{}, 6, 6, 6},
		{"a jail stopped long ago", week + 1, func(v *View) {
			j := &v.Sources[0].Report.Hosts[1].Jails[0]
			j.LastLine, j.Running = at("00:00:00.000"), correlate.Known(false)
		}, MetricsOptions{}, 5, 5, 6},
		{"other holds it", week + 1, silence(2), MetricsOptions{MaxHosts: 1}, 4, 6, 6},
	} {
		c.options.ForgetAfter = cmp.Or(c.options.ForgetAfter, week)
		m := NewMetrics(c.options, nil)
		m.Set(forgetting(0))
		v := forgetting(c.after)
		c.change(v)
		m.Set(v)
		page := lines(served(t, m), "fail2ban_failures_total")
		sum := 0
		for line := range strings.Lines(page) {
			n, _ := strconv.Atoi(strings.TrimSpace(line[strings.LastIndex(line, " ")+1:]))
			sum += n
		}
		gaps := 0
		for line := range strings.Lines(lines(served(t, m), gapMetric)) {
			n, _ := strconv.Atoi(strings.TrimSpace(line[strings.LastIndex(line, " ")+1:]))
			gaps += n
		}
		if got := strings.Count(page, "\n"); got != c.hosts || sum != c.sum || gaps != c.gaps {
			t.Errorf("%s: %d series with %d failures and %d gaps, want %d, %d and %d\n%s", c.what, got, sum, gaps, c.hosts, c.sum, c.gaps, page)
		}
	}
}

// silence makes a host one that has said nothing since the beginning.
func silence(host int) func(*View) {
	return func(v *View) {
		h := &v.Sources[0].Report.Hosts[host]
		h.LastLine = at("00:00:00.000")
		for j := range h.Jails {
			h.Jails[j].LastLine = h.LastLine
		}
	}
}

// A place is given up for another only by who has gone, and who comes back gets
// one where there is.
func TestPlacesAreGivenUp(t *testing.T) {
	a := newAdmission(2)
	first := at("00:00:00.000")
	all := func(gone string, names ...string) map[string]applicant {
		out := map[string]applicant{}
		for _, n := range names {
			out[n] = applicant{first.Add(time.Duration(n[0]) * time.Second), strings.Contains(gone, n)}
		}
		return out
	}
	for i, c := range []struct {
		all     map[string]applicant
		refused int
		want    map[string]place
	}{
		{all("", "b", "a"), 0, map[string]place{"a": ownPlace, "b": ownPlace}},
		{all("", "b", "a", "c"), 1, map[string]place{"a": ownPlace, "b": ownPlace, "c": inOther}},
		{all("a", "b", "a", "c"), 0, map[string]place{"a": ownPlace, "b": ownPlace, "c": inOther}}, // nobody wants it
		{all("a", "b", "a", "c", "d"), 0, map[string]place{"a": nowhere, "b": ownPlace, "c": inOther, "d": ownPlace}},
		{all("", "b", "a", "c", "d"), 1, map[string]place{"a": inOther, "b": ownPlace, "c": inOther, "d": ownPlace}},
		{all("bde", "a", "b", "c", "d", "e"), 0, map[string]place{"a": inOther, "b": ownPlace, "c": inOther, "d": ownPlace, "e": nowhere}},
	} {
		refused := a.review(c.all)
		if diff := gocmp.Diff(c.want, a.places); diff != "" || refused != c.refused {
			t.Errorf("step %d: %d refused, want %d\n%s", i, refused, c.refused, diff)
		}
	}
}

// Whoever looks when: hosts get their places in the order of their first lines.
func TestPlacesByFirstLine(t *testing.T) {
	v := manyHosts(40, 1)
	hosts := v.Sources[0].Report.Hosts
	for i := range hosts {
		hosts[i].FirstLine = at("00:00:00.000").Add(time.Duration(i*7%40) * time.Minute)
	}
	m := NewMetrics(MetricsOptions{MaxHosts: 10}, nil)
	m.Set(v)
	whole := m.hosts.places
	again := NewMetrics(MetricsOptions{MaxHosts: 10}, nil)
	slices.SortFunc(hosts, func(a, b correlate.HostReport) int { return a.FirstLine.Compare(b.FirstLine) })
	for n := 5; n <= 40; n += 5 {
		part := *v
		part.Sources = []SourceReport{{Report: correlate.Report{Hosts: hosts[:n]}}}
		again.Set(&part)
	}
	if diff := gocmp.Diff(whole, again.hosts.places); diff != "" {
		t.Error(diff)
	}
}

// Who is about the last in the ranking does not come and go.
func TestSteady(t *testing.T) {
	self := func(s *string) string { return *s }
	ranks := func(names string) []string { return strings.Split(names, "") }
	var before []string
	for i, c := range []struct{ rows, want string }{
		{"abcdefghijk", "abcdefghij"},
		{"abcdefghikj", "abcdefghij"}, // j is one too low, and stays
		{"abcdefghijk", "abcdefghij"},
		{"kabcdefghij", "kabcdefghi"}, // k is clearly in
		{"kabcdefghji", "kabcdefghi"},
		{"xyzkabcdefg", "xyzkabcdef"},
		{"xy", "xy"},
	} {
		got := Steady(ranks(c.rows), 10, self, before)
		if strings.Join(got, "") != c.want {
			t.Errorf("step %d: %v, want %s", i, got, c.want)
		}
		before = got
	}
	if Margin(0) != 0 || len(Steady(ranks("ab"), 0, self, before)) != 0 {
		t.Error("none are wanted, and some are there")
	}
}

func BenchmarkSet(b *testing.B) {
	m, v := NewMetrics(MetricsOptions{}, nil), manyHosts(100, 10)
	for b.Loop() {
		m.Set(v)
	}
}
