package publish

import (
	"math"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"fail2ban-loki-exporter/exporter/internal/correlate"

	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Exemplars are, of each bucket of the histograms, the newest span and whose it
// was. The nil one has none. They live as long as the program: what is in the
// past of a state file has none.
type Exemplars struct {
	redact *Redactor

	mu sync.Mutex
	of map[exemplarPlace]exemplar
}

type exemplarPlace struct {
	metric, source, jail string // as labels have them
	bucket               int
}

type exemplar struct {
	id      string
	seconds float64
	at      time.Time
}

const (
	gapMetric       = "fail2ban_protection_gap_seconds"
	reoffenceMetric = "fail2ban_reoffence_delay_seconds"
	// maxExemplars bounds what jails that an attacker names may take.
	maxExemplars = 10_000
	// maxExemplarID is what OpenMetrics allows for all labels of an exemplar,
	// less the name of ours.
	maxExemplarID = 128 - len("ip")
)

// NewExemplars makes what shows ids as a Redactor leaves them.
func NewExemplars(redact *Redactor) *Exemplars {
	return &Exemplars{redact: redact, of: map[exemplarPlace]exemplar{}}
}

// Add takes the spans of findings; source is as labels have it, empty for the only one.
func (e *Exemplars) Add(source string, findings []correlate.Finding) {
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range findings {
		switch f := &findings[i]; {
		case f.Kind == correlate.FindingReoffence:
			e.note(reoffenceMetric, source, f, correlate.ReoffenceBounds, f.Reoffence.Delay)
		case isGap(f):
			e.note(gapMetric, source, f, correlate.GapBounds, f.Restore.Gap.V)
		}
	}
}

func (e *Exemplars) note(metric, source string, f *correlate.Finding, bounds []float64, d time.Duration) {
	bucket, _ := slices.BinarySearch(bounds, d.Seconds())
	where := exemplarPlace{metric, label(source), label(f.Jail), bucket}
	old, known := e.of[where]
	if known && f.Time.Before(old.at) || !known && len(e.of) >= maxExemplars {
		return
	}
	id := label(e.redact.ID(f.ID))
	if utf8.RuneCountInString(id) <= maxExemplarID {
		e.of[where] = exemplar{id, d.Seconds(), f.Time}
	}
}

// show adds them to a histogram.
func (e *Exemplars) show(metric string, m *dto.Metric) {
	if e == nil {
		return
	}
	where := exemplarPlace{metric: metric}
	for _, l := range m.GetLabel() {
		switch l.GetName() {
		case "jail":
			where.jail = l.GetValue()
		case "source":
			where.source = l.GetValue()
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	h := m.GetHistogram()
	for where.bucket = range len(h.GetBucket()) + 1 {
		one, ok := e.of[where]
		if !ok {
			continue
		}
		if where.bucket == len(h.GetBucket()) { // the last bucket is not written unless it bears something
			h.Bucket = append(h.Bucket, &dto.Bucket{UpperBound: new(math.Inf(1)), CumulativeCount: h.SampleCount})
		}
		h.Bucket[where.bucket].Exemplar = &dto.Exemplar{
			Label: []*dto.LabelPair{{Name: new("ip"), Value: &one.id}}, Value: &one.seconds, Timestamp: timestamppb.New(one.at),
		}
	}
}
