package publish

import (
	"cmp"
	"slices"
	"strings"

	"fail2ban-loki-exporter/exporter/internal/correlate"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// families are metrics ready to be served, by name.
type families struct {
	plain  []*dto.MetricFamily
	native []*dto.MetricFamily // with native histograms
}

// families makes them of the page's series, and tells how many there are.
func (p *page) families() *families {
	out := &families{}
	for i := range domain {
		d := &domain[i]
		names := d.labelNames(p.m.o.NameSource)
		family := newFamily(d)
		n := 0
		for k := range p.series[i].all {
			s := &p.series[i].all[k]
			if !s.alive {
				continue
			}
			family.Metric = append(family.Metric, d.metric(names, s, p.view))
			n++
			if d.histogram != nil {
				n += len(s.histogram.Counts) + 1 // and its sum and count
			}
		}
		if p.m.self != nil {
			p.m.self.Series.WithLabelValues(d.name).Set(float64(n))
		}
		if len(family.Metric) == 0 {
			continue
		}
		sortMetrics(family.Metric)
		out.plain = append(out.plain, family)
		out.native = append(out.native, p.withNative(i, family))
	}
	byName := func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) }
	slices.SortFunc(out.plain, byName)
	slices.SortFunc(out.native, byName)
	return out
}

// withNative is a family with its native histograms, where it has any.
func (p *page) withNative(i int, classic *dto.MetricFamily) *dto.MetricFamily {
	d := &domain[i]
	if d.histogram == nil {
		return classic
	}
	family := newFamily(d)
	family.Metric = slices.Clone(classic.GetMetric())
	var names []string
	if p.m.o.NameSource {
		names = append(names, "source")
	}
	names = append(names, "host", "jail")
	for k := range p.native[i].all {
		if s := &p.native[i].all[k]; s.alive {
			family.Metric = append(family.Metric, &dto.Metric{Label: labelPairs(names, s.labels), Histogram: nativeHistogram(s)})
		}
	}
	sortMetrics(family.Metric)
	return family
}

var kinds = map[prometheus.ValueType]dto.MetricType{counter: dto.MetricType_COUNTER, gauge: dto.MetricType_GAUGE}

func newFamily(d *metric) *dto.MetricFamily {
	kind := kinds[d.kind]
	if d.histogram != nil {
		kind = dto.MetricType_HISTOGRAM
	}
	return &dto.MetricFamily{Name: &d.name, Help: &d.help, Type: &kind}
}

// metric is a series as it is served.
func (d *metric) metric(names []string, s *series, v *View) *dto.Metric {
	out := &dto.Metric{Label: labelPairs(names, s.labels)}
	switch {
	case d.histogram != nil:
		out.Histogram = classicHistogram(s)
		v.Exemplars.show(d.name, out)
	case d.kind == counter:
		out.Counter = &dto.Counter{Value: &s.value, CreatedTimestamp: s.created()}
	default:
		out.Gauge = &dto.Gauge{Value: &s.value}
	}
	return out
}

// created is since when a counter has counted: when the first line came of those
// whom it counts, where it was 0.
func (s *series) created() *timestamppb.Timestamp {
	if s.since.IsZero() {
		return nil
	}
	return timestamppb.New(s.since)
}

// labelPairs are labels by name.
func labelPairs(names, values []string) []*dto.LabelPair {
	pairs := make([]dto.LabelPair, len(names))
	out := make([]*dto.LabelPair, len(names))
	for i := range names {
		pairs[i].Name, pairs[i].Value = &names[i], &values[i]
		out[i] = &pairs[i]
	}
	slices.SortFunc(out, func(a, b *dto.LabelPair) int { return strings.Compare(a.GetName(), b.GetName()) })
	return out
}

// sortMetrics sorts series of one family by their labels.
func sortMetrics(ms []*dto.Metric) {
	slices.SortFunc(ms, func(a, b *dto.Metric) int {
		if c := cmp.Compare(len(a.GetLabel()), len(b.GetLabel())); c != 0 {
			return c
		}
		for i, l := range a.GetLabel() {
			if c := strings.Compare(l.GetValue(), b.GetLabel()[i].GetValue()); c != 0 {
				return c
			}
		}
		return 0
	})
}

func classicHistogram(s *series) *dto.Histogram {
	h := &s.histogram
	out := &dto.Histogram{SampleCount: &h.Total, SampleSum: new(h.Sum()), CreatedTimestamp: s.created()}
	sum := uint64(0)
	for i := range h.Bounds {
		sum += h.Counts[i]
		out.Bucket = append(out.Bucket, &dto.Bucket{UpperBound: &h.Bounds[i], CumulativeCount: new(sum)})
	}
	return out
}

// nativeZero is the width of the bucket of no time, as client_golang has it.
const nativeZero = prometheus.DefNativeHistogramZeroThreshold

// nativeFilled is up to how many empty buckets are less to tell than a new span.
const nativeFilled = 2

// nativeHistogram has spans of buckets that follow each other, and of each
// bucket how much more it holds than the one before.
func nativeHistogram(s *series) *dto.Histogram {
	h := &s.histogram
	out := &dto.Histogram{
		SampleCount: new(h.NativeTotal()), SampleSum: new(h.Sum()), CreatedTimestamp: s.created(),
		Schema: proto.Int32(correlate.NativeSchema), ZeroThreshold: new(nativeZero), ZeroCount: &h.Zero,
	}
	var next int32
	var before int64
	add := func(count int64) {
		*out.PositiveSpan[len(out.PositiveSpan)-1].Length++
		out.PositiveDelta = append(out.PositiveDelta, count-before)
		before = count
	}
	for i, b := range h.Native {
		if i == 0 || b.Index-next > nativeFilled {
			out.PositiveSpan = append(out.PositiveSpan, &dto.BucketSpan{Offset: new(b.Index - next), Length: proto.Uint32(0)})
			next = b.Index
		}
		for ; next < b.Index; next++ {
			add(0)
		}
		add(int64(b.Count))
		next++
	}
	if len(h.Native) == 0 { // it says that this is a native one
		out.PositiveSpan = []*dto.BucketSpan{{Offset: proto.Int32(0), Length: proto.Uint32(0)}}
	}
	return out
}

// Join gathers from several, whose metrics have different names, and copies
// nothing.
func Join(of ...prometheus.Gatherer) prometheus.Gatherer {
	return prometheus.GathererFunc(func() (all []*dto.MetricFamily, err error) {
		for _, g := range of {
			families, bad := g.Gather()
			all, err = append(all, families...), cmp.Or(err, bad)
		}
		slices.SortFunc(all, func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) })
		return all, err
	})
}
