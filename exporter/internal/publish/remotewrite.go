package publish

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/exp/api/remote"
	"github.com/prometheus/client_golang/prometheus"
)

// Why samples were dropped: values of `reason` on
// fail2ban_exporter_sink_dropped_total beside those of findings.
const (
	// DroppedUnavailable: the receiver did not answer, or failed, until newer
	// values took their place.
	DroppedUnavailable = "unavailable"
)

// RemoteDropReasons is the closed set of that label for remote write.
var RemoteDropReasons = []string{DroppedRejected, DroppedRateLimited, DroppedUnavailable, DroppedSeries}

// RemoteOptions say where and how metrics are written.
type RemoteOptions struct {
	// Name tells this receiver from others, in metrics and logs.
	Name string
	// URL is the receiver's.
	URL *url.URL
	// HTTP sends the requests, with the authentication and time-out of each.
	HTTP *http.Client
	// V2 writes remote write 2.0.
	V2 bool
	// Labels are added to every series.
	Labels map[string]string
	// Interval is the time from one round to the next.
	Interval time.Duration
	// Budget bounds how long a round is tried.
	Budget time.Duration
	// MinBackoff and MaxBackoff bound the pauses between tries, and MaxRetries
	// their number; 0 is no bound.
	MinBackoff, MaxBackoff time.Duration
	MaxRetries             int
	// MaxSamples bounds the samples of a request.
	MaxSamples int
	// Native writes native histograms too.
	Native bool
	// Gather gives the metrics: the same as /metrics.
	Gather prometheus.Gatherer
	// Log is told when the receiver begins and ends to fail.
	Log *slog.Logger
	// Batch, where set, is told of each request's result, and Dropped of
	// samples that did not arrive.
	Batch   func(result string)
	Dropped func(reason string, n int)
}

// CountRemote is o with its callbacks set to count for the sink of its name.
func (s *Self) CountRemote(o RemoteOptions) RemoteOptions {
	for _, r := range BatchResults {
		s.SinkBatches.WithLabelValues(o.Name, r)
	}
	for _, r := range RemoteDropReasons {
		s.SinkDropped.WithLabelValues(o.Name, r)
	}
	o.Batch = func(result string) { s.SinkBatches.WithLabelValues(o.Name, result).Inc() }
	o.Dropped = func(reason string, n int) { s.SinkDropped.WithLabelValues(o.Name, reason).Add(float64(n)) }
	return o
}

// RemoteWriter writes all metrics to one receiver, round after round. Nothing
// is queued: what a round could not write, the next one writes newer.
type RemoteWriter struct {
	o      RemoteOptions
	api    *remote.API
	status atomic.Int64 // of the last answer, 0 for none

	// sent are the series that the receiver may show, until a staleness marker
	// of theirs has arrived.
	sent map[string]sentSeries

	mu    sync.Mutex
	state RemoteState
}

type sentSeries struct {
	sample remoteSample
	at     time.Time // when it was last there
}

// RemoteState is what became of the last round.
type RemoteState struct {
	At      time.Time // of the last round that arrived as a whole
	Samples int       // of the last round
	Err     error     // nil when it arrived as a whole
}

// forgotten is how long Prometheus itself shows a series that gets no more
// samples: after that, a marker that did not arrive is no longer needed.
const forgotten = 5 * time.Minute

// maxAnswer bounds how much of an answer is read.
const maxAnswer = 16 << 10

// NewRemoteWriter makes a writer; Run starts it.
func NewRemoteWriter(o RemoteOptions) (*RemoteWriter, error) {
	w := &RemoteWriter{o: o, sent: map[string]sentSeries{}}
	if w.o.Log == nil {
		w.o.Log = slog.New(slog.DiscardHandler)
	}
	client := *o.HTTP
	client.Transport = &watched{next: cmp.Or(o.HTTP.Transport, http.DefaultTransport), status: &w.status}
	var err error
	w.api, err = remote.NewAPI(o.URL.String(), remote.WithAPIPath(""), remote.WithAPIHTTPClient(&client),
		remote.WithAPIBackoff(remote.BackoffConfig{Min: o.MinBackoff, Max: o.MaxBackoff, MaxRetries: o.MaxRetries}))
	return w, err
}

// watched notes the status of answers and reads no more of them than it should.
type watched struct {
	next   http.RoundTripper
	status *atomic.Int64
}

func (w *watched) RoundTrip(r *http.Request) (*http.Response, error) {
	w.status.Store(0)
	resp, err := w.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	w.status.Store(int64(resp.StatusCode))
	resp.Body = &shortBody{Reader: io.LimitReader(resp.Body, maxAnswer), Closer: resp.Body}
	return resp, nil
}

type shortBody struct {
	io.Reader
	io.Closer
}

// TakeOver goes on where another writer to the same receiver has ended, so that
// only series that have truly gone are marked.
func (w *RemoteWriter) TakeOver(from *RemoteWriter) {
	w.sent = from.sent
	from.sent = map[string]sentSeries{}
}

// Run writes round after round until the context ends.
func (w *RemoteWriter) Run(ctx context.Context) {
	ticker := time.NewTicker(w.o.Interval)
	defer ticker.Stop()
	for {
		w.Write(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// Write writes one round: what the metrics are now, and markers for series that
// have gone.
func (w *RemoteWriter) Write(ctx context.Context) {
	now := time.Now()
	families, err := w.o.Gather.Gather()
	if err != nil {
		w.o.Log.Warn("not all metrics could be gathered", "sink", w.o.Name, "err", err)
	}
	samples, err := samplesOf(families, now, w.o.Labels, w.o.Native)
	if err != nil {
		w.o.Log.Warn("not all metrics could be read", "sink", w.o.Name, "err", err)
	}
	present := make(map[string]bool, len(samples))
	for i := range samples {
		present[samples[i].key] = true
	}
	samples = append(samples, w.gone(now, func(key string) bool { return present[key] })...)
	w.send(ctx, now, samples)
}

// End marks all series as gone.
func (w *RemoteWriter) End(ctx context.Context) {
	now := time.Now()
	w.send(ctx, now, w.gone(now, func(string) bool { return false }))
}

// gone makes markers for the series that are no longer there.
func (w *RemoteWriter) gone(now time.Time, there func(key string) bool) (markers []remoteSample) {
	for key, s := range w.sent {
		switch {
		case there(key):
		case now.Sub(s.at) > forgotten:
			delete(w.sent, key)
		default:
			markers = append(markers, remoteSample{key: key, labels: s.sample.labels, family: s.sample.family, value: staleNaN, at: now.UnixMilli()})
		}
	}
	return markers
}

// send writes samples in requests of at most MaxSamples, within the budget.
func (w *RemoteWriter) send(ctx context.Context, now time.Time, samples []remoteSample) {
	ctx, cancel := context.WithTimeout(ctx, w.o.Budget)
	defer cancel()
	var failed error
	for rest := samples; len(rest) > 0; {
		batch := rest[:min(len(rest), w.o.MaxSamples)]
		rest = rest[len(batch):]
		reason, err := w.write(ctx, batch)
		failed = cmp.Or(failed, err)
		if reason != "" && reason != DroppedRejected { // it takes nothing now
			w.dropped(reason, len(rest))
			break
		}
		w.remember(now, batch)
	}
	w.note(now, len(samples), failed)
}

// remember keeps what the receiver may show from now on, and forgets what it
// was told has gone.
func (w *RemoteWriter) remember(now time.Time, batch []remoteSample) {
	for i := range batch {
		s := &batch[i]
		if s.native == nil && math.Float64bits(s.value) == math.Float64bits(staleNaN) {
			delete(w.sent, s.key)
			continue
		}
		w.sent[s.key] = sentSeries{sample: remoteSample{labels: s.labels, family: s.family}, at: now}
	}
}

// write writes one request and tells why it did not arrive; "" when it did.
func (w *RemoteWriter) write(ctx context.Context, batch []remoteSample) (reason string, err error) {
	var last error
	retrying := remote.WithWriteRetryCallback(func(err error) { last = err })
	var stats remote.WriteResponseStats
	if w.o.V2 {
		stats, err = w.api.Write(ctx, remote.WriteV2MessageType, writeV2(batch), retrying)
	} else {
		stats, err = w.api.Write(ctx, remote.WriteV1MessageType, writeV1(batch), retrying)
	}
	if err == nil {
		w.batch(BatchOK)
		return "", nil
	}
	if ctx.Err() != nil && last != nil {
		err = last
	}
	taken := stats.AllSamples()
	switch status := w.status.Load(); {
	case status == http.StatusTooManyRequests:
		reason = DroppedRateLimited
	case status >= 200 && status < 500: // 2xx: a receiver that confirms nothing
		reason = DroppedRejected
	default:
		reason = DroppedUnavailable
	}
	if taken > 0 {
		w.batch(BatchPartial)
	} else {
		w.batch(BatchFailed)
	}
	w.dropped(reason, max(0, len(batch)-taken))
	return reason, shown(err)
}

// maxShown is how much of an error is shown; receivers put their answer in it.
const maxShown = 300

// requestURL is how an error of net/http begins. The client for remote write
// hides the error's type, so it is known by its words.
var requestURL = regexp.MustCompile(`^[A-Z][a-z]+ "(?:[^"\\]|\\.)*": `)

// shown is an error of a request without the URL, which may hold a secret, and
// harmless to show.
func shown(err error) error {
	text := Visible(requestURL.ReplaceAllString(err.Error(), ""))
	return errors.New(text[:min(len(text), maxShown)])
}

func (w *RemoteWriter) batch(result string) {
	if w.o.Batch != nil {
		w.o.Batch(result)
	}
}

func (w *RemoteWriter) dropped(reason string, n int) {
	if w.o.Dropped != nil && n > 0 {
		w.o.Dropped(reason, n)
	}
}

// note keeps what became of a round, and logs where that changes.
func (w *RemoteWriter) note(now time.Time, samples int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.state.Err
	w.state.Samples, w.state.Err = samples, err
	if err == nil {
		w.state.At = now
	}
	switch {
	case err != nil && (before == nil || before.Error() != err.Error()):
		w.o.Log.Warn("metrics could not be written; the next round has newer ones", "sink", w.o.Name, "err", err)
	case err == nil && before != nil:
		w.o.Log.Info("metrics are written again", "sink", w.o.Name)
	}
}

// State tells what became of the last round.
func (w *RemoteWriter) State() RemoteState {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state
}

// Probe writes nothing to the receiver, to see whether it takes it.
func (w *RemoteWriter) Probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, w.o.Budget)
	defer cancel()
	reason, err := w.write(ctx, nil)
	if err == nil {
		return nil
	}
	if w.status.Load() == http.StatusNotFound {
		return fmt.Errorf("%w; a Prometheus needs --web.enable-remote-write-receiver", err)
	}
	return fmt.Errorf("%s: %w", reason, err)
}
