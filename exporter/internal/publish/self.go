package publish

import (
	"cmp"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors/version"
)

// Results of lines: the values of `result` on fail2ban_exporter_lines_total.
var lineResults = []string{"event", "other", "unparsed", "duplicate", "own"}

// Results of saves: the values of `result` on
// fail2ban_exporter_state_saves_total.
var saveResults = []string{"ok", "failed", "skipped"}

// Self is what the exporter says of itself. Who does the work sets it.
type Self struct {
	ConfigReloadOK   prometheus.Gauge       // 1 or 0
	ConfigReloadTime prometheus.Gauge       // of the last good load
	LokiRequests     *prometheus.CounterVec // code
	LokiDuration     prometheus.Histogram   // seconds
	Lines            *prometheus.CounterVec // result
	LateLines        prometheus.Counter
	RevisedVerdicts  prometheus.Counter
	UnnamedHosts     prometheus.Gauge     // hosts without a label that names them
	Cursor           prometheus.Gauge     // seconds since the epoch
	Committed        prometheus.Gauge     // seconds since the epoch
	Lag              prometheus.Gauge     // seconds
	CatchingUp       prometheus.Gauge     // 1 or 0
	BackfillProgress *prometheus.GaugeVec // source
	TrackedKeys      prometheus.Gauge
	EvictedKeys      prometheus.Counter
	StateSaves       *prometheus.CounterVec // result
	StateDuration    prometheus.Histogram   // seconds
	StateRebuilt     prometheus.Gauge       // seconds since the epoch
	SinkBatches      *prometheus.CounterVec // sink, result
	SinkDropped      *prometheus.CounterVec // sink, reason
	Series           *prometheus.GaugeVec   // metric
	SeriesLimited    prometheus.Counter
}

const selfPrefix = "fail2ban_exporter_"

// Native buckets of our own histograms: each a tenth wider than the one before, as
// correlate.NativeSchema, and so many at most.
const (
	nativeFactor  = 1.1
	nativeBuckets = 160
)

// NewSelf makes the instruments and registers them, with the build's own.
func NewSelf(reg prometheus.Registerer) *Self {
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Name: selfPrefix + name, Help: help}
	}
	gauge := func(name, help string) prometheus.GaugeOpts {
		return prometheus.GaugeOpts{Name: selfPrefix + name, Help: help}
	}
	histogram := func(name, help string, buckets ...float64) prometheus.HistogramOpts {
		return prometheus.HistogramOpts{
			Name: selfPrefix + name, Help: help, Buckets: buckets,
			NativeHistogramBucketFactor: nativeFactor, NativeHistogramMaxBucketNumber: nativeBuckets, NativeHistogramMinResetDuration: time.Hour,
		}
	}
	s := &Self{
		ConfigReloadOK:   prometheus.NewGauge(gauge("config_last_reload_successful", "1 if the last load of the configuration succeeded, else 0.")),
		ConfigReloadTime: prometheus.NewGauge(gauge("config_last_reload_success_timestamp_seconds", "When the configuration was last loaded with success, in seconds since the epoch.")),
		LokiRequests:     prometheus.NewCounterVec(counter("loki_requests_total", "Requests to Loki by status code, or `error` where none came back."), []string{"code"}),
		LokiDuration: prometheus.NewHistogram(histogram("loki_request_duration_seconds", "How long requests to Loki took, in seconds.",
			.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60)),
		Lines:            prometheus.NewCounterVec(counter("lines_total", "Log lines read, by what became of them."), []string{"result"}),
		LateLines:        prometheus.NewCounter(counter("late_lines_total", "Lines that Loki got after later ones of their time had been read.")),
		RevisedVerdicts:  prometheus.NewCounter(counter("revised_verdicts_total", "Verdicts that were counted and that a late line took back.")),
		UnnamedHosts:     prometheus.NewGauge(gauge("hosts_without_label", "Streams that no label gives a host, so that they go by their source's name.")),
		Cursor:           prometheus.NewGauge(gauge("cursor_timestamp_seconds", "Up to when the log has been read, over all sources the least, in seconds since the epoch.")),
		Committed:        prometheus.NewGauge(gauge("committed_timestamp_seconds", "Up to when all findings have reached every client, over all sources the least, in seconds since the epoch.")),
		Lag:              prometheus.NewGauge(gauge("lag_seconds", "How far the cursor is behind now, in seconds.")),
		CatchingUp:       prometheus.NewGauge(gauge("catching_up", "1 while the back-fill or an outage's backlog is being read, else 0.")),
		BackfillProgress: prometheus.NewGaugeVec(gauge("backfill_progress_ratio", "How much of the look-back has been read since the start, 0 to 1."), []string{"source"}),
		TrackedKeys:      prometheus.NewGauge(gauge("tracked_keys", "Ids in jails of hosts that the correlation keeps state of.")),
		EvictedKeys:      prometheus.NewCounter(counter("evicted_keys_total", "Ids in jails of hosts that were forgotten because max_tracked_keys was reached.")),
		StateSaves:       prometheus.NewCounterVec(counter("state_saves_total", "Saves of the state file, by result."), []string{"result"}),
		StateDuration: prometheus.NewHistogram(histogram("state_save_duration_seconds", "How long reading stood still for a save of the state file, in seconds.",
			.001, .005, .01, .05, .1, .25, .5, 1, 2.5, 5)),
		StateRebuilt:  prometheus.NewGauge(gauge("state_rebuilt_timestamp_seconds", "When the history was last read anew, for want of a state to go on from, in seconds since the epoch.")),
		SinkBatches:   prometheus.NewCounterVec(counter("sink_batches_total", "Batches given to a sink, by result."), []string{"sink", "result"}),
		SinkDropped:   prometheus.NewCounterVec(counter("sink_dropped_total", "Findings and samples that a sink's server did not take, by reason."), []string{"sink", "reason"}),
		Series:        prometheus.NewGaugeVec(gauge("series", "Series served now, by metric."), []string{"metric"}),
		SeriesLimited: prometheus.NewCounter(counter("series_limited_total", "Hosts and jails that went into `other` because max_hosts or max_jails was reached.")),
	}
	for _, r := range lineResults {
		s.Lines.WithLabelValues(r)
	}
	for _, r := range saveResults {
		s.StateSaves.WithLabelValues(r)
	}
	reg.MustRegister(version.NewCollector("fail2ban_exporter"), s.ConfigReloadOK, s.ConfigReloadTime, s.LokiRequests, s.LokiDuration, s.Lines,
		s.LateLines, s.RevisedVerdicts, s.UnnamedHosts, s.Cursor, s.Committed, s.Lag, s.CatchingUp, s.BackfillProgress, s.TrackedKeys, s.EvictedKeys, s.StateSaves, s.StateDuration, s.StateRebuilt, s.SinkBatches, s.SinkDropped, s.Series, s.SeriesLimited)
	return s
}

// Count is o with its callbacks set to count for the sink of its name, each of
// its results and reasons from 0.
func (s *Self) Count(o LokiOptions) LokiOptions {
	o.Name = cmp.Or(o.Name, defaultSink)
	for _, r := range BatchResults {
		s.SinkBatches.WithLabelValues(o.Name, r)
	}
	for _, r := range DropReasons {
		s.SinkDropped.WithLabelValues(o.Name, r)
	}
	o.Batch = func(result string) { s.SinkBatches.WithLabelValues(o.Name, result).Inc() }
	o.Dropped = func(reason string, n int) { s.SinkDropped.WithLabelValues(o.Name, reason).Add(float64(n)) }
	return o
}
