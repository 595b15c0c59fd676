package publish

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"fail2ban-loki-exporter/exporter/internal/correlate"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	promexemplar "github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"google.golang.org/protobuf/testing/protocmp"
)

// wellFormed checks what a registry would check of a collector.
func wellFormed(t *testing.T, families []*dto.MetricFamily) {
	t.Helper()
	names := map[string]bool{}
	if !slices.IsSortedFunc(families, func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) }) {
		t.Error("the metrics are not in the order of their names")
	}
	for _, f := range families {
		if names[f.GetName()] {
			t.Errorf("%s is there twice", f.GetName())
		}
		names[f.GetName()] = true
		if f.GetHelp() == "" || strings.HasSuffix(f.GetName(), "_total") != (f.GetType() == dto.MetricType_COUNTER) {
			t.Errorf("%s: %v, %q", f.GetName(), f.GetType(), f.GetHelp())
		}
		series := map[string]bool{}
		for _, m := range f.GetMetric() {
			key := ""
			for i, l := range m.GetLabel() {
				if !utf8.ValidString(l.GetValue()) || i > 0 && m.GetLabel()[i-1].GetName() >= l.GetName() {
					t.Errorf("%s: label %s=%q", f.GetName(), l.GetName(), l.GetValue())
				}
				key += l.GetName() + "\xff" + l.GetValue() + "\xff"
			}
			if series[key] {
				t.Errorf("%s: a series is there twice: %q", f.GetName(), key)
			}
			series[key] = true
		}
	}
}

// gapsOf is a report of one host and jail with these gaps in its histogram, made
// by the correlation itself.
func gapsOf(t *testing.T, spans []time.Duration) correlate.Histogram {
	t.Helper()
	var h correlate.Histogram
	h.Bounds, h.Counts = correlate.GapBounds, make([]uint64, len(correlate.GapBounds)+1)
	for _, d := range spans {
		h.Observe(d)
	}
	return h
}

// Our native histograms are those that client_golang makes of the same spans.
func TestNativeHistogram(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	for n := range 60 {
		theirs := prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: gapMetric, Help: "x", Buckets: correlate.GapBounds, NativeHistogramBucketFactor: nativeFactor, NativeHistogramMaxBucketNumber: 1 << 20,
		})
		var spans []time.Duration
		for range n {
			d := time.Duration(r.Int64N(1<<r.IntN(38))) * time.Millisecond
			if r.IntN(4) == 0 {
				d = time.Duration(1<<r.IntN(20)) * time.Second // on a bound
			}
			spans = append(spans, d)
			theirs.Observe(d.Seconds())
		}
		ours := gapsOf(t, spans)
		s := &series{histogram: ours, labels: []string{"a"}}
		want := &dto.Metric{}
		if err := theirs.Write(want); err != nil {
			t.Fatal(err)
		}
		got, classic := nativeHistogram(s), classicHistogram(s)
		got.Bucket = classic.Bucket
		want.Histogram.CreatedTimestamp = nil
		if n == 0 {
			want.Histogram.PositiveSpan = got.PositiveSpan
		}
		if diff := cmp.Diff(want.GetHistogram(), got, protocmp.Transform(), protocmp.IgnoreFields(&dto.Histogram{}, "sample_sum")); diff != "" {
			t.Fatalf("%v:\n%s", spans, diff)
		}
	}
}

// Native histograms tell hosts and jails apart, classic ones jails, and neither
// shows in the other's place.
func TestNativeBesideClassic(t *testing.T) {
	m := NewMetrics(MetricsOptions{}, nil)
	m.Set(view())
	plain, err := m.Gather()
	if err != nil {
		t.Fatal(err)
	}
	native, err := m.Native().Gather()
	if err != nil {
		t.Fatal(err)
	}
	wellFormed(t, plain)
	wellFormed(t, native)
	count := func(families []*dto.MetricFamily) (classic, native int, total, nativeTotal uint64) {
		for _, f := range families {
			if f.GetName() != gapMetric {
				continue
			}
			for _, one := range f.GetMetric() {
				if h := one.GetHistogram(); h.Schema == nil {
					classic++
					total += h.GetSampleCount()
				} else {
					native++
					nativeTotal += h.GetSampleCount()
				}
			}
		}
		return classic, native, total, nativeTotal
	}
	if c, n, total, _ := count(plain); c != 2 || n != 0 || total == 0 {
		t.Errorf("without: %d classic, %d native, %d gaps", c, n, total)
	}
	if c, n, total, nativeTotal := count(native); c != 2 || n != 3 || total != nativeTotal {
		t.Errorf("with: %d classic, %d native, %d and %d gaps", c, n, total, nativeTotal)
	}
	samples, err := samplesOf(native, at("22:00:00.000"), nil, true)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]bool{}
	for _, s := range samples {
		if keys[s.key] {
			t.Errorf("%q is written twice", s.key)
		}
		keys[s.key] = true
		if s.native == nil && strings.Contains(s.key, gapMetric) && strings.Contains(s.key, "host") {
			t.Errorf("a classic series of a native histogram: %q", s.key)
		}
	}
}

// openMetrics is a page in OpenMetrics with since when counters count.
func openMetrics(t *testing.T, families []*dto.MetricFamily) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToOpenMetrics(&b, f, expfmt.WithCreatedLines()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := expfmt.FinalizeOpenMetrics(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// The page is OpenMetrics as Prometheus reads it, and says of each counter since
// when it counts: since the first line of those whom it counts.
func TestOpenMetrics(t *testing.T) {
	v := view()
	v.Exemplars = NewExemplars(nil)
	v.Exemplars.Add("", findings())
	m := NewMetrics(MetricsOptions{}, nil)
	m.Set(v)
	families, _ := m.Gather()
	page := openMetrics(t, families)
	p := textparse.NewOpenMetricsParser(page, labels.NewSymbolTable(), textparse.WithOMParserSTSeriesSkipped())
	counters, created, exemplars := 0, 0, 0
	for {
		entry, err := p.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, page)
		}
		if entry != textparse.EntrySeries {
			continue
		}
		var l labels.Labels
		p.Labels(&l)
		if strings.HasSuffix(l.Get("__name__"), "_total") {
			counters++
			if p.StartTimestamp() != 0 {
				created++
			}
		}
		var e promexemplar.Exemplar
		if p.Exemplar(&e) && e.Labels.Get("ip") != "" {
			exemplars++
		}
	}
	if counters == 0 || created != counters || exemplars != 2 {
		t.Errorf("%d counters, %d with a beginning, %d exemplars in\n%s", counters, created, exemplars, page)
	}
	host := v.Sources[0].Report.Hosts[0]
	if host.FirstLine.Unix() != 1772323201 {
		t.Fatal("the fixture begins at another time")
	}
	want := fmt.Sprintf("fail2ban_server_restarts_created{host=%q,kind=\"clean\"} 1.772323201e+09\n", host.Host)
	if !strings.Contains(string(page), want) {
		t.Errorf("no %s in\n%s", want, page)
	}
}

// Exemplars are the newest of their bucket, and show no more of an id than the
// metrics may.
func TestExemplars(t *testing.T) {
	e := NewExemplars(NewTruncator(nil))
	span := func(id, clock string, gap time.Duration) correlate.Finding {
		r := restoreOf(id)
		r.Time, r.Gap = at(clock), correlate.Known(gap)
		return correlate.Finding{Kind: correlate.FindingRestore, Time: r.Time, Host: "web1", Jail: "sshd", ID: id, Restore: r}
	}
	e.Add("", []correlate.Finding{
		span("192.0.2.77", "10:00:00.000", 20*time.Second), span("198.51.100.9", "11:00:00.000", 25*time.Second), span("203.0.113.5", "10:30:00.000", 16*time.Second),
		span("2001:db8:1:2:3::4", "12:00:00.000", 40*24*time.Hour), span(strings.Repeat("x", 500), "12:00:00.000", 2*time.Second),
	})
	v := view()
	v.Exemplars = e
	m := NewMetrics(MetricsOptions{}, nil)
	m.Set(v)
	families, _ := m.Gather()
	var got []string
	for line := range strings.Lines(string(openMetrics(t, families))) {
		if _, exemplar, ok := strings.Cut(line, " # "); ok {
			got = append(got, exemplar)
		}
	}
	want := []string{
		"{ip=\"hidden\"} 2.0 1.7723664e+09\n", "{ip=\"198.51.100.0/24\"} 25.0 1.7723628e+09\n", "{ip=\"2001:db8:1:2::/64\"} 3.456e+06 1.7723664e+09\n",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Join keeps the order of names and what an error left.
func TestJoin(t *testing.T) {
	family := func(names ...string) prometheus.Gatherer {
		return prometheus.GathererFunc(func() (all []*dto.MetricFamily, _ error) {
			for _, n := range names {
				all = append(all, &dto.MetricFamily{Name: &n})
			}
			return all, nil
		})
	}
	broken := errors.New("one is broken")
	all, err := Join(family("b", "d"), prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return nil, broken }), family("a", "c")).Gather()
	var names []string
	for _, f := range all {
		names = append(names, f.GetName())
	}
	if !errors.Is(err, broken) || strings.Join(names, "") != "abcd" {
		t.Errorf("%v, %v", names, err)
	}
}
