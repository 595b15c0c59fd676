package publish

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fail2ban-loki-exporter/exporter/internal/correlate"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// pastOf is a report of hosts whose one jail has so many failures.
func pastOf(failures uint64, hosts ...string) (r correlate.Report) {
	for _, host := range hosts {
		r.Hosts = append(r.Hosts, correlate.HostReport{Host: host, Restarts: map[string]uint64{}, Jails: []correlate.JailReport{{Jail: "sshd", Counts: correlate.Counts{Failures: failures}}}})
	}
	return r
}

func historyTo(t *testing.T, address string, change func(*HistoryOptions)) (*History, *Self) {
	t.Helper()
	var o HistoryOptions
	_, self := writerTo(t, address, nil, func(r *RemoteOptions) {
		r.MaxSamples = 50
		o.Remote = *r
	})
	o.Remote = self.CountRemote(o.Remote)
	o.MaxSeries, o.Wait = 10_000, 20*time.Second
	if change != nil {
		change(&o)
	}
	h, err := NewHistory(o)
	if err != nil {
		t.Fatal(err)
	}
	return h, self
}

var past = time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)

const pastFailures = "__name__=fail2ban_failures_total,host=web-1,instance=a,jail=sshd,job=exporter"

// writePast writes a hundred points of one host.
func writePast(ctx context.Context, h *History) {
	var running sync.WaitGroup
	running.Go(func() { h.Run(ctx) })
	for i := range 100 {
		h.Add("loki", past.Add(time.Duration(i)*time.Hour), pastOf(uint64(i), "web-1"))
	}
	h.Done("loki")
	h.Close()
	running.Wait()
}

func TestHistoryInOrder(t *testing.T) {
	for _, v2 := range []bool{false, true} {
		r := newReceiver(t, nil)
		written := ""
		h, self := historyTo(t, r.URL, func(o *HistoryOptions) {
			o.Remote.V2 = v2
			o.Written = func(source string) { written = source }
		})
		writePast(t.Context(), h)
		got := r.values(pastFailures)
		if len(got) != 100 || !slices.IsSorted(got) || got[99] != 99 {
			t.Errorf("v2 %v: %v", v2, got)
		}
		if st := h.State(); !st.Done || st.Err != nil || !st.UpTo.Equal(past.Add(99*time.Hour)) || written != "loki" {
			t.Errorf("%+v, written %q", st, written)
		}
		if n := testutil.ToFloat64(self.SinkBatches.WithLabelValues("rw", BatchOK)); n != float64(r.count()) {
			t.Errorf("%v requests counted of %d", n, r.count())
		}
		for series := range r.got {
			if strings.Contains(series, "offender") {
				t.Errorf("the ranking of the past is not known, but written: %s", series)
			}
		}
	}
}

// No receiver makes the reading of the past wait for long, and none that
// refuses is written to for ever; what was not written whole is not noted.
func TestHistoryGivesUp(t *testing.T) {
	released := make(chan struct{})
	for name, c := range map[string]struct {
		answer func(http.ResponseWriter, int)
		most   int // requests
	}{
		"refuses": {func(rw http.ResponseWriter, _ int) { refuse(rw, http.StatusBadRequest) }, maxRefused},
		"fails":   {func(rw http.ResponseWriter, _ int) { refuse(rw, http.StatusInternalServerError) }, 1000},
		"limits": {func(rw http.ResponseWriter, _ int) {
			rw.Header().Set("Retry-After", "3600")
			refuse(rw, http.StatusTooManyRequests)
		}, 1},
		"cuts":  {func(http.ResponseWriter, int) { panic(http.ErrAbortHandler) }, 1000},
		"hangs": {func(http.ResponseWriter, int) { <-released }, 1000},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReceiver(t, c.answer)
			h, _ := historyTo(t, r.URL, func(o *HistoryOptions) {
				if name != "refuses" {
					hurried(&o.Remote)
				}
				o.Wait = 300 * time.Millisecond
				o.Written = func(string) { t.Error("noted as written") }
			})
			begun := time.Now()
			writePast(t.Context(), h)
			if took := time.Since(begun); took > 5*time.Second {
				t.Errorf("took %v", took)
			}
			if st := h.State(); st.Err == nil || st.Done {
				t.Errorf("%+v", st)
			}
			if n := r.count(); n > c.most {
				t.Errorf("%d requests", n)
			}
			if name == "hangs" {
				close(released)
			}
		})
	}
}

// A request that is refused, as where one series of it is, does not end it.
func TestHistoryGoesOnAfterARefusal(t *testing.T) {
	r := newReceiver(t, first(func(rw http.ResponseWriter) { refuse(rw, http.StatusBadRequest) }))
	h, self := historyTo(t, r.URL, nil)
	writePast(t.Context(), h)
	if got := r.values(pastFailures); len(got) < 90 || len(got) >= 100 {
		t.Errorf("%d points", len(got))
	}
	if n := testutil.ToFloat64(self.SinkDropped.WithLabelValues("rw", DroppedRejected)); n != 50 {
		t.Errorf("%v samples counted", n)
	}
}

func TestHistoryBoundsItsSeries(t *testing.T) {
	r := newReceiver(t, nil)
	h, self := historyTo(t, r.URL, func(o *HistoryOptions) { o.MaxSeries = 100 })
	var hosts []string
	for i := range 20 {
		hosts = append(hosts, fmt.Sprintf("web-%02d", i))
	}
	var running sync.WaitGroup
	running.Go(func() { h.Run(t.Context()) })
	for i := range 3 {
		h.Add("loki", past.Add(time.Duration(i)*time.Hour), pastOf(1, hosts...))
	}
	h.Done("loki")
	h.Close()
	running.Wait()
	if len(r.got) != 100 {
		t.Errorf("%d series", len(r.got))
	}
	for series, values := range r.got {
		if len(values) != 3 {
			t.Errorf("%d points of %s", len(values), series)
		}
	}
	if testutil.ToFloat64(self.SinkDropped.WithLabelValues("rw", DroppedSeries)) == 0 {
		t.Error("what did not fit is not counted")
	}
}

func TestHistoryIsNotWrittenBesideAScrape(t *testing.T) {
	r := newReceiver(t, nil)
	h, _ := historyTo(t, r.URL, func(o *HistoryOptions) {
		o.Forbidden = func(context.Context) error { return ErrScraped }
	})
	writePast(t.Context(), h)
	if st := h.State(); r.count() != 0 || !errors.Is(st.Err, ErrScraped) {
		t.Errorf("%d requests, %+v", r.count(), st)
	}
}

// The ranking's metrics are not there where the past alone is told.
func TestMetricsOfThePast(t *testing.T) {
	m := NewMetrics(MetricsOptions{PastOnly: true}, nil)
	m.Set(&View{CaughtUp: true, Tracked: 5})
	families, err := m.Gather()
	if err != nil || len(families) != 0 {
		t.Errorf("%v, %v", families, err)
	}
}
