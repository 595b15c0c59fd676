package publish

import (
	"context"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/snappy"
	writev2 "github.com/prometheus/client_golang/exp/api/remote/genproto/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/prompb"
)

// receiver is a server of remote write. Its answer is made by a function that
// is told how many requests came before.
type receiver struct {
	*httptest.Server
	answer func(rw http.ResponseWriter, n int)

	mu       sync.Mutex
	requests int
	got      map[string][]float64 // by series, as text
	natives  int
	headers  []http.Header
}

func newReceiver(t *testing.T, answer func(rw http.ResponseWriter, n int)) *receiver {
	t.Helper()
	r := &receiver{answer: answer, got: map[string][]float64{}}
	r.Server = httptest.NewServer(r)
	t.Cleanup(func() {
		r.CloseClientConnections()
		r.Close()
	})
	return r
}

func (r *receiver) ServeHTTP(rw http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err == nil {
		body, err = snappy.Decode(nil, body)
	}
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	n := r.requests
	r.requests++
	r.headers = append(r.headers, req.Header)
	r.mu.Unlock()
	if r.answer != nil {
		r.answer(rw, n)
	}
	samples := r.take(req.Header.Get("Content-Type"), body)
	rw.Header().Set("X-Prometheus-Remote-Write-Samples-Written", strconv.Itoa(samples))
	rw.WriteHeader(http.StatusNoContent)
}

func (r *receiver) take(contentType string, body []byte) (samples int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if strings.Contains(contentType, "v2") {
		var m writev2.Request
		if m.UnmarshalVT(body) != nil {
			return 0
		}
		for _, ts := range m.Timeseries {
			var name []string
			for i := 0; i < len(ts.LabelsRefs); i += 2 {
				name = append(name, m.Symbols[ts.LabelsRefs[i]]+"="+m.Symbols[ts.LabelsRefs[i+1]])
			}
			for _, s := range ts.Samples {
				samples++
				r.got[strings.Join(name, ",")] = append(r.got[strings.Join(name, ",")], s.Value)
			}
			r.natives += len(ts.Histograms)
		}
		return samples
	}
	var m prompb.WriteRequest
	if m.Unmarshal(body) != nil {
		return 0
	}
	for _, ts := range m.Timeseries {
		var name []string
		for _, l := range ts.Labels {
			name = append(name, l.Name+"="+l.Value)
		}
		for _, s := range ts.Samples {
			samples++
			r.got[strings.Join(name, ",")] = append(r.got[strings.Join(name, ",")], s.Value)
		}
		r.natives += len(ts.Histograms)
	}
	return samples
}

// values are what came of a series.
func (r *receiver) values(series string) []float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got[series])
}

func (r *receiver) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.requests
}

// hurried gives up soon. Where a receiver shall be waited for, nobody knows how
// long a busy machine takes.
func hurried(o *RemoteOptions) { o.HTTP.Timeout, o.Budget = 100*time.Millisecond, 300*time.Millisecond }

// writerTo makes a writer that is quick to try again, and its counts.
func writerTo(t *testing.T, address string, reg *prometheus.Registry, change func(*RemoteOptions)) (*RemoteWriter, *Self) {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{}, Timeout: 20 * time.Second}
	t.Cleanup(client.CloseIdleConnections)
	self := NewSelf(prometheus.NewRegistry())
	o := RemoteOptions{
		Name: "rw", URL: u, HTTP: client, Labels: map[string]string{"job": "exporter", "instance": "a"}, Interval: time.Millisecond, Budget: 20 * time.Second,
		MinBackoff: time.Millisecond, MaxBackoff: 5 * time.Millisecond, MaxSamples: 2, Gather: reg,
	}
	if change != nil {
		change(&o)
	}
	w, err := NewRemoteWriter(self.CountRemote(o))
	if err != nil {
		t.Fatal(err)
	}
	return w, self
}

// threeSeries is a registry with a counter of two series and a gauge.
func threeSeries() (*prometheus.Registry, *prometheus.CounterVec) {
	reg := prometheus.NewRegistry()
	bans := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "bans_total", Help: "Bans."}, []string{"host"})
	up := prometheus.NewGauge(prometheus.GaugeOpts{Name: "up_now", Help: "Up."})
	reg.MustRegister(bans, up)
	bans.WithLabelValues("web-1").Add(7)
	bans.WithLabelValues("web-2").Add(8)
	up.Set(1)
	return reg, bans
}

const (
	web1 = "__name__=bans_total,host=web-1,instance=a,job=exporter"
	web2 = "__name__=bans_total,host=web-2,instance=a,job=exporter"
)

func isMarker(v float64) bool { return math.Float64bits(v) == math.Float64bits(staleNaN) }

func TestRemoteWriteRounds(t *testing.T) {
	for _, v2 := range []bool{false, true} {
		reg, bans := threeSeries()
		r := newReceiver(t, nil)
		w, self := writerTo(t, r.URL, reg, func(o *RemoteOptions) { o.V2 = v2 })
		w.Write(t.Context())
		if got := r.values(web1); len(got) != 1 || got[0] != 7 {
			t.Fatalf("v2 %v: %v of %v", v2, got, r.got)
		}
		if n := r.count(); n != 2 { // 3 samples, 2 a request
			t.Errorf("%d requests", n)
		}
		bans.DeleteLabelValues("web-2")
		w.Write(t.Context())
		if got := r.values(web2); len(got) != 2 || !isMarker(got[1]) {
			t.Errorf("v2 %v: no marker for a series that went: %v", v2, got)
		}
		w.Write(t.Context())
		if got := r.values(web2); len(got) != 2 {
			t.Errorf("v2 %v: marked again: %v", v2, got)
		}
		w.End(t.Context())
		if got := r.values(web1); len(got) != 4 || !isMarker(got[3]) {
			t.Errorf("v2 %v: no marker at the end: %v", v2, got)
		}
		if n := testutil.ToFloat64(self.SinkBatches.WithLabelValues("rw", BatchOK)); n != float64(r.count()) {
			t.Errorf("%v batches counted of %d", n, r.count())
		}
		if st := w.State(); st.Err != nil || st.At.IsZero() {
			t.Errorf("%+v", st)
		}
	}
}

func TestRemoteWriteHeadersOfBothVersions(t *testing.T) {
	reg, _ := threeSeries()
	for v2, want := range map[bool][2]string{
		false: {"0.1.0", "application/x-protobuf"}, true: {"2.0.0", "application/x-protobuf;proto=io.prometheus.write.v2.Request"},
	} {
		r := newReceiver(t, nil)
		w, _ := writerTo(t, r.URL, reg, func(o *RemoteOptions) { o.V2 = v2 })
		w.Write(t.Context())
		h := r.headers[0]
		if got := [2]string{h.Get("X-Prometheus-Remote-Write-Version"), h.Get("Content-Type")}; got != want || h.Get("Content-Encoding") != "snappy" {
			t.Errorf("%v: %v", v2, h)
		}
	}
}

func TestRemoteWriteNativeHistograms(t *testing.T) {
	for _, v2 := range []bool{false, true} {
		reg := prometheus.NewRegistry()
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "gap_seconds", Help: "Gaps.", Buckets: []float64{1}, NativeHistogramBucketFactor: 1.1})
		reg.MustRegister(h)
		h.Observe(0.5)
		h.Observe(3)
		r := newReceiver(t, nil)
		w, _ := writerTo(t, r.URL, reg, func(o *RemoteOptions) { o.V2, o.Native, o.MaxSamples = v2, true, 100 })
		w.Write(t.Context())
		if r.natives != 1 || len(r.values("__name__=gap_seconds_bucket,instance=a,job=exporter,le=1.0")) != 1 && len(r.values("__name__=gap_seconds_bucket,instance=a,job=exporter,le=1")) != 1 {
			t.Errorf("v2 %v: %d native, %v", v2, r.natives, r.got)
		}
	}
}

// What receivers may do instead of taking a round.
func TestRemoteWriteFaults(t *testing.T) {
	for name, c := range map[string]struct {
		answer func(rw http.ResponseWriter, n int)
		reason string // of the drops; "" for none
		ok     bool   // the round arrived in the end
		drops  float64
	}{
		"400":       {answer: func(rw http.ResponseWriter, _ int) { refuse(rw, http.StatusBadRequest) }, reason: DroppedRejected, drops: 3},
		"400 once":  {answer: first(func(rw http.ResponseWriter) { refuse(rw, http.StatusBadRequest) }), reason: DroppedRejected, drops: 2},
		"500 twice": {answer: firstTwo(func(rw http.ResponseWriter) { refuse(rw, http.StatusInternalServerError) }), ok: true},
		"500":       {answer: func(rw http.ResponseWriter, _ int) { refuse(rw, http.StatusInternalServerError) }, reason: DroppedUnavailable, drops: 3},
		"429 too long": {answer: func(rw http.ResponseWriter, _ int) {
			rw.Header().Set("Retry-After", "60")
			refuse(rw, http.StatusTooManyRequests)
		}, reason: DroppedRateLimited, drops: 3},
		"429 once": {answer: first(func(rw http.ResponseWriter) {
			rw.Header().Set("Retry-After", "0")
			refuse(rw, http.StatusTooManyRequests)
		}), ok: true},
		"cut":      {answer: func(http.ResponseWriter, int) { panic(http.ErrAbortHandler) }, reason: DroppedUnavailable, drops: 3},
		"cut once": {answer: first(func(http.ResponseWriter) { panic(http.ErrAbortHandler) }), ok: true},
		"404":      {answer: func(rw http.ResponseWriter, _ int) { refuse(rw, http.StatusNotFound) }, reason: DroppedRejected, drops: 3},
	} {
		t.Run(name, func(t *testing.T) {
			reg, _ := threeSeries()
			r := newReceiver(t, c.answer)
			var change func(*RemoteOptions)
			if c.reason == DroppedUnavailable || c.reason == DroppedRateLimited {
				change = hurried
			}
			w, self := writerTo(t, r.URL, reg, change)
			begun := time.Now()
			w.Write(t.Context())
			if took := time.Since(begun); took > 5*time.Second {
				t.Errorf("took %v with a budget of 300ms", took)
			}
			if st := w.State(); (st.Err == nil) != c.ok {
				t.Errorf("%+v", st)
			}
			for _, reason := range RemoteDropReasons {
				want := 0.0
				if reason == c.reason {
					want = c.drops
				}
				if got := testutil.ToFloat64(self.SinkDropped.WithLabelValues("rw", reason)); got != want {
					t.Errorf("%v dropped as %s, want %v", got, reason, want)
				}
			}
		})
	}
}

func first(answer func(rw http.ResponseWriter)) func(http.ResponseWriter, int) {
	return func(rw http.ResponseWriter, n int) {
		if n == 0 {
			answer(rw)
		}
	}
}

func firstTwo(answer func(rw http.ResponseWriter)) func(http.ResponseWriter, int) {
	return func(rw http.ResponseWriter, n int) {
		if n < 2 {
			answer(rw)
		}
	}
}

// refuse answers and takes nothing: the handler ends after a whole answer.
func refuse(rw http.ResponseWriter, status int) {
	const answer = "no \x1b[31m thanks"
	rw.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	rw.WriteHeader(status)
	_, _ = io.WriteString(rw, answer)
	_ = http.NewResponseController(rw).Flush()
	panic(http.ErrAbortHandler)
}

// A receiver that hangs holds up neither another one nor a scrape, and nothing
// is queued for it: what it gets in the end is of that time.
func TestRemoteWriteHangs(t *testing.T) {
	reg, bans := threeSeries()
	var released sync.WaitGroup
	released.Add(1)
	hangs := newReceiver(t, func(http.ResponseWriter, int) { released.Wait() })
	good := newReceiver(t, nil)
	slow, self := writerTo(t, hangs.URL, reg, hurried)
	quick, _ := writerTo(t, good.URL, reg, nil)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { slow.Run(ctx) })
	running.Go(func() { quick.Run(ctx) })
	defer running.Wait()
	defer cancel()
	waitFor(t, "many rounds beside the one that hangs", func() bool { return len(good.values(web1)) > 20 })
	waitFor(t, "a round given up", func() bool {
		return testutil.ToFloat64(self.SinkDropped.WithLabelValues("rw", DroppedUnavailable)) >= 3
	})
	if _, err := reg.Gather(); err != nil {
		t.Error(err)
	}
	before := len(hangs.values(web1))
	bans.WithLabelValues("web-1").Add(100)
	released.Done()
	waitFor(t, "the newest value", func() bool { v := hangs.values(web1); return len(v) > before && v[len(v)-1] == 107 })
}

// The answer of a receiver is shown, but nothing in it that a terminal obeys,
// and nothing of the URL.
func TestRemoteWriteShowsNoSecret(t *testing.T) {
	reg, _ := threeSeries()
	r := newReceiver(t, func(rw http.ResponseWriter, _ int) { refuse(rw, http.StatusBadRequest) })
	var released sync.WaitGroup
	released.Add(1)
	hangs := newReceiver(t, func(http.ResponseWriter, int) { released.Wait() })
	defer released.Done()
	turns := httptest.NewServer(http.RedirectHandler("/?token=geheim", http.StatusPermanentRedirect))
	defer turns.Close()
	for _, address := range []string{r.URL + "?token=geheim", hangs.URL + "?token=geheim", turns.URL, "http://me:geheim@127.0.0.1:1/?token=geheim"} {
		w, _ := writerTo(t, address, reg, func(o *RemoteOptions) { o.Budget = 50 * time.Millisecond }) // shorter than the time-out
		w.Write(t.Context())
		if err := w.State().Err; err == nil || strings.Contains(err.Error(), "geheim") || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%v", err)
		}
	}
}

// A marker that cannot be sent waits as long as it is of use.
func TestRemoteWriteMarkersWait(t *testing.T) {
	reg, bans := threeSeries()
	r := newReceiver(t, func(_ http.ResponseWriter, n int) {
		if n == 2 || n == 3 {
			panic(http.ErrAbortHandler)
		}
	})
	w, _ := writerTo(t, r.URL, reg, func(o *RemoteOptions) { o.MaxRetries = 1 })
	w.Write(t.Context())
	bans.DeleteLabelValues("web-2")
	w.Write(t.Context())
	w.Write(t.Context())
	w.Write(t.Context())
	if got := r.values(web2); len(got) != 2 || !isMarker(got[1]) {
		t.Errorf("%v", got)
	}
	w.sent["gone"] = sentSeries{at: time.Now().Add(-2 * forgotten)}
	w.Write(t.Context())
	if _, ok := w.sent["gone"]; ok || len(w.sent) != 2 {
		t.Errorf("%d series are remembered", len(w.sent))
	}
}

// Another writer to the same receiver goes on without a marker.
func TestRemoteWriteTakeOver(t *testing.T) {
	reg, _ := threeSeries()
	r := newReceiver(t, nil)
	old, _ := writerTo(t, r.URL, reg, nil)
	old.Write(t.Context())
	next, _ := writerTo(t, r.URL, reg, nil)
	next.TakeOver(old)
	old.End(t.Context())
	next.Write(t.Context())
	if got := r.values(web1); len(got) != 2 || isMarker(got[0]) || isMarker(got[1]) {
		t.Errorf("%v", got)
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("never: %s", what)
		case <-tick.C:
		}
	}
}
