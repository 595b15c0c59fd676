package publish

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"

	writev2 "github.com/prometheus/client_golang/exp/api/remote/genproto/v2"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/prompb"
)

// remoteSample is one sample of one series on its way to a receiver.
type remoteSample struct {
	key    string         // of the series: its labels
	labels []prompb.Label // by name
	family *dto.MetricFamily
	value  float64
	at     int64          // milliseconds since the epoch
	native *dto.Histogram // instead of value
}

// staleNaN is the value that tells a receiver of Prometheus' kind that a series
// has gone.
var staleNaN = math.Float64frombits(0x7ff0000000000002)

// samplesOf makes samples of what a registry gathered, with external labels
// where a series has no such label itself.
func samplesOf(families []*dto.MetricFamily, at time.Time, external map[string]string, native bool) (out []remoteSample, err error) {
	o := &expfmt.DecodeOptions{Timestamp: model.TimeFromUnixNano(at.UnixNano())}
	for _, f := range families {
		vector, bad := expfmt.ExtractSamples(o, withoutNative(f))
		err = cmp.Or(err, bad)
		for _, s := range vector {
			out = append(out, newRemoteSample(s, f, external))
		}
		if native && f.GetType() == dto.MetricType_HISTOGRAM {
			out = append(out, nativeSamples(f, at, external)...)
		}
	}
	return out, err
}

// withoutNative is a family without the histograms that are native alone, which
// have no series of counts and buckets.
func withoutNative(f *dto.MetricFamily) *dto.MetricFamily {
	only := func(m *dto.Metric) bool {
		h := m.GetHistogram()
		return h != nil && h.Schema != nil && len(h.GetBucket()) == 0
	}
	if !slices.ContainsFunc(f.GetMetric(), only) {
		return f
	}
	return &dto.MetricFamily{Name: f.Name, Help: f.Help, Type: f.Type, Unit: f.Unit, Metric: slices.DeleteFunc(slices.Clone(f.GetMetric()), only)}
}

func newRemoteSample(s *model.Sample, f *dto.MetricFamily, external map[string]string) remoteSample {
	one := remoteSample{family: f, value: float64(s.Value), at: int64(s.Timestamp)}
	for name, value := range s.Metric {
		one.labels = append(one.labels, prompb.Label{Name: string(name), Value: string(value)})
	}
	return one.finished(external)
}

// nativeSamples are the native histograms of a family.
func nativeSamples(f *dto.MetricFamily, at time.Time, external map[string]string) (out []remoteSample) {
	for _, m := range f.GetMetric() {
		h := m.GetHistogram()
		if h == nil || h.Schema == nil {
			continue
		}
		one := remoteSample{family: f, at: at.UnixMilli(), native: h, labels: []prompb.Label{{Name: model.MetricNameLabel, Value: f.GetName()}}}
		for _, l := range m.GetLabel() {
			one.labels = append(one.labels, prompb.Label{Name: l.GetName(), Value: l.GetValue()})
		}
		out = append(out, one.finished(external))
	}
	return out
}

// finished adds the external labels and makes the key.
func (s remoteSample) finished(external map[string]string) remoteSample {
	for name, value := range external {
		if !slices.ContainsFunc(s.labels, func(l prompb.Label) bool { return l.Name == name }) {
			s.labels = append(s.labels, prompb.Label{Name: name, Value: value})
		}
	}
	s.labels = slices.DeleteFunc(s.labels, func(l prompb.Label) bool { return l.Value == "" }) // as if it were not there, says the protocol
	slices.SortFunc(s.labels, func(a, b prompb.Label) int { return strings.Compare(a.Name, b.Name) })
	var key strings.Builder
	for _, l := range s.labels {
		key.WriteString(l.Name)
		key.WriteByte(0xff) // in no valid text
		key.WriteString(l.Value)
		key.WriteByte(0xff)
	}
	s.key = key.String()
	return s
}

// writeV1 makes a message of remote write 1.0.
func writeV1(samples []remoteSample) *prompb.WriteRequest {
	r := &prompb.WriteRequest{Timeseries: make([]prompb.TimeSeries, 0, len(samples))}
	told, known := map[*dto.MetricFamily]bool{nil: true}, map[string]int{}
	for i := range samples {
		s := &samples[i]
		at, seen := known[s.key]
		if !seen {
			at = len(r.Timeseries)
			known[s.key] = at
			r.Timeseries = append(r.Timeseries, prompb.TimeSeries{Labels: s.labels})
		}
		ts := &r.Timeseries[at]
		if s.native != nil {
			ts.Histograms = append(ts.Histograms, nativeV1(s.native, s.at))
		} else {
			ts.Samples = append(ts.Samples, prompb.Sample{Value: s.value, Timestamp: s.at})
		}
		if !told[s.family] {
			told[s.family] = true
			r.Metadata = append(r.Metadata, prompb.MetricMetadata{
				MetricFamilyName: s.family.GetName(), Help: s.family.GetHelp(), Type: prompb.MetricMetadata_MetricType(typeOf(s.family)),
			})
		}
	}
	return r
}

// typeOf is a family's type, which both messages number alike.
func typeOf(f *dto.MetricFamily) int32 {
	switch f.GetType() {
	case dto.MetricType_COUNTER:
		return int32(prompb.MetricMetadata_COUNTER)
	case dto.MetricType_GAUGE:
		return int32(prompb.MetricMetadata_GAUGE)
	case dto.MetricType_SUMMARY:
		return int32(prompb.MetricMetadata_SUMMARY)
	case dto.MetricType_HISTOGRAM, dto.MetricType_GAUGE_HISTOGRAM:
		return int32(prompb.MetricMetadata_HISTOGRAM)
	case dto.MetricType_UNTYPED:
	}
	return int32(prompb.MetricMetadata_UNKNOWN)
}

// v2Types are the types of remote write 2.0 by those of 1.0.
var v2Types = map[int32]writev2.Metadata_MetricType{
	int32(prompb.MetricMetadata_COUNTER):   writev2.Metadata_METRIC_TYPE_COUNTER,
	int32(prompb.MetricMetadata_GAUGE):     writev2.Metadata_METRIC_TYPE_GAUGE,
	int32(prompb.MetricMetadata_SUMMARY):   writev2.Metadata_METRIC_TYPE_SUMMARY,
	int32(prompb.MetricMetadata_HISTOGRAM): writev2.Metadata_METRIC_TYPE_HISTOGRAM,
}

// writeV2 makes a message of remote write 2.0.
func writeV2(samples []remoteSample) *writev2.Request {
	symbols := writev2.NewSymbolTable()
	r := &writev2.Request{Timeseries: make([]*writev2.TimeSeries, 0, len(samples))}
	known := map[string]*writev2.TimeSeries{}
	for i := range samples {
		s := &samples[i]
		ts := known[s.key]
		if ts == nil {
			ts = seriesV2(s, &symbols)
			known[s.key] = ts
			r.Timeseries = append(r.Timeseries, ts)
		}
		if s.native != nil {
			ts.Histograms = append(ts.Histograms, nativeV2(s.native, s.at))
		} else {
			ts.Samples = append(ts.Samples, &writev2.Sample{Value: s.value, Timestamp: s.at})
		}
	}
	r.Symbols = symbols.Symbols()
	return r
}

// seriesV2 is a series without samples.
func seriesV2(s *remoteSample, symbols *writev2.SymbolsTable) *writev2.TimeSeries {
	ts := &writev2.TimeSeries{Metadata: &writev2.Metadata{}}
	for _, l := range s.labels {
		ts.LabelsRefs = append(ts.LabelsRefs, symbols.Symbolize(l.Name), symbols.Symbolize(l.Value))
	}
	if s.family != nil {
		ts.Metadata.Type, ts.Metadata.HelpRef = v2Types[typeOf(s.family)], symbols.Symbolize(s.family.GetHelp())
	}
	return ts
}

// nativeV1 is a native histogram of counts, as this program's are.
func nativeV1(h *dto.Histogram, at int64) prompb.Histogram {
	spans := func(from []*dto.BucketSpan) (to []prompb.BucketSpan) {
		for _, s := range from {
			to = append(to, prompb.BucketSpan{Offset: s.GetOffset(), Length: s.GetLength()})
		}
		return to
	}
	return prompb.Histogram{
		Count: &prompb.Histogram_CountInt{CountInt: h.GetSampleCount()}, Sum: h.GetSampleSum(), Schema: h.GetSchema(),
		ZeroThreshold: h.GetZeroThreshold(), ZeroCount: &prompb.Histogram_ZeroCountInt{ZeroCountInt: h.GetZeroCount()},
		PositiveSpans: spans(h.GetPositiveSpan()), PositiveDeltas: h.GetPositiveDelta(),
		NegativeSpans: spans(h.GetNegativeSpan()), NegativeDeltas: h.GetNegativeDelta(), Timestamp: at,
	}
}

func nativeV2(h *dto.Histogram, at int64) *writev2.Histogram {
	spans := func(from []*dto.BucketSpan) (to []*writev2.BucketSpan) {
		for _, s := range from {
			to = append(to, &writev2.BucketSpan{Offset: s.GetOffset(), Length: s.GetLength()})
		}
		return to
	}
	return &writev2.Histogram{
		Count: &writev2.Histogram_CountInt{CountInt: h.GetSampleCount()}, Sum: h.GetSampleSum(), Schema: h.GetSchema(),
		ZeroThreshold: h.GetZeroThreshold(), ZeroCount: &writev2.Histogram_ZeroCountInt{ZeroCountInt: h.GetZeroCount()},
		PositiveSpans: spans(h.GetPositiveSpan()), PositiveDeltas: h.GetPositiveDelta(),
		NegativeSpans: spans(h.GetNegativeSpan()), NegativeDeltas: h.GetNegativeDelta(), Timestamp: at,
	}
}
