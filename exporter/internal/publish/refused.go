package publish

import (
	"context"
	"errors"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"fail2ban-loki-exporter/exporter/internal/loki"
)

// Why entries will never be in Loki: the values of `reason` on
// fail2ban_exporter_sink_dropped_total.
const (
	DroppedTooOld      = "too_old" // also too far behind the stream's newest entry
	DroppedTooNew      = "too_new"
	DroppedTooLarge    = "too_large"
	DroppedRateLimited = "rate_limited"
	DroppedLabels      = "labels"     // too many or too long ones, or missing ones
	DroppedRejected    = "rejected"   // any other reason of the server
	DroppedQueueFull   = "queue_full" // it did not take them for so long that newer ones took their place
)

// DropReasons is the closed set of that label.
var DropReasons = []string{DroppedTooOld, DroppedTooNew, DroppedTooLarge, DroppedRateLimited, DroppedLabels, DroppedRejected, DroppedQueueFull}

// maxStrikes is how often an entry alone may be refused for its rate, with all
// the tries that each push has, before it is dropped so that the next may pass.
const maxStrikes = 3

// pushStream pushes entries of one stream in their order and tells how many of
// them it is done with: they are taken, or dropped and counted.
func (s *LokiSink) pushStream(ctx context.Context, key string, entries []queued) (done int, err error) {
	for done < len(entries) {
		n := s.fitting(key, entries[done:])
		err := s.push(ctx, entries[done:done+n])
		refused := statusOf(err)
		switch {
		case err == nil:
			s.grow(key)
		case refused == http.StatusBadRequest:
			if err := s.settle(ctx, entries[done:done+n], err); err != nil {
				return done, err
			}
		case n > 1 && (refused == http.StatusTooManyRequests || refused == http.StatusRequestEntityTooLarge):
			s.fit[key] = sizeOf(entries[done:done+n]) / 2
			continue
		case refused == http.StatusRequestEntityTooLarge:
			s.o.Dropped(DroppedTooLarge, 1)
		case refused == http.StatusTooManyRequests && s.strikes[key] >= maxStrikes-1:
			s.o.Dropped(DroppedRateLimited, 1)
		case refused == http.StatusTooManyRequests:
			s.strikes[key]++
			return done, err
		default:
			return done, err
		}
		delete(s.strikes, key)
		s.progressed()
		done += n
	}
	return done, nil
}

// fitting tells how many entries the next push takes, one at least.
func (s *LokiSink) fitting(key string, entries []queued) (n int) {
	limit := s.o.BatchSize
	if fit, ok := s.fit[key]; ok {
		limit = fit
	}
	for size := 0; n < len(entries); n++ {
		if size += entries[n].size; n > 0 && size > limit {
			break
		}
	}
	return n
}

// grow lets a stream's pushes, once refused, become larger again.
func (s *LokiSink) grow(key string) {
	if fit, ok := s.fit[key]; ok {
		if s.fit[key] = fit + fit/8; s.fit[key] >= s.o.BatchSize {
			delete(s.fit, key)
		}
	}
}

// push pushes entries of one stream.
func (s *LokiSink) push(ctx context.Context, entries []queued) error {
	stream := loki.PushStream{Labels: entries[0].labels, Entries: make([]loki.PushEntry, len(entries))}
	for i := range entries {
		stream.Entries[i] = entries[i].entry
	}
	err := s.p.Push(ctx, []loki.PushStream{stream})
	switch {
	case err == nil:
		s.o.Batch(BatchOK)
	case statusOf(err) == http.StatusBadRequest:
		s.o.Batch(BatchPartial)
	default:
		s.o.Batch(BatchFailed)
	}
	return err
}

// settle counts what a 400 says was dropped; the rest is stored. Where its
// words do not say how many, the entries are pushed again by halves until each
// that is refused stands alone. An error means that this broke off.
func (s *LokiSink) settle(ctx context.Context, entries []queued, err error) error {
	if drops, ok := dropped(wordsOf(err), len(entries)); ok {
		s.count(drops)
		return nil
	}
	all := map[string]int{} // counted at the end: what broke off is pushed again as a whole
	parts := halves(nil, entries)
	for len(parts) > 0 {
		part := parts[len(parts)-1]
		parts = parts[:len(parts)-1]
		err := s.push(ctx, part)
		switch {
		case err == nil:
			continue
		case statusOf(err) != http.StatusBadRequest:
			return err
		}
		switch drops, ok := dropped(wordsOf(err), len(part)); {
		case ok:
			// What is behind now was taken by the first push: in its order it
			// would have been told of.
			delete(drops, behind)
			for reason, n := range drops {
				all[reason] += n
			}
		case len(part) == 1:
			all[DroppedRejected]++
		default:
			parts = halves(parts, part)
		}
	}
	s.count(all)
	return nil
}

// halves adds the halves of a part, so that the first comes off first.
func halves(parts [][]queued, part []queued) [][]queued {
	if len(part) < 2 {
		return append(parts, part)
	}
	return append(parts, part[len(part)/2:], part[:len(part)/2])
}

// behind is a reason of dropped; it is counted as DroppedTooOld.
const behind = "behind"

func (s *LokiSink) count(drops map[string]int) {
	for reason, n := range drops {
		if reason == behind {
			reason = DroppedTooOld
		}
		s.o.Dropped(reason, n)
	}
}

func sizeOf(entries []queued) (n int) {
	for i := range entries {
		n += entries[i].size
	}
	return n
}

// statusOf is the status that a server refused a push with, 0 for none.
func statusOf(err error) int {
	if e, ok := errors.AsType[*loki.Error](err); ok {
		return e.Status
	}
	return 0
}

// ofStream tells whether an error is about one stream, so that the others may
// fare better.
func ofStream(err error) bool { return statusOf(err) == http.StatusTooManyRequests }

func wordsOf(err error) string {
	e, ok := errors.AsType[*loki.Error](err)
	switch {
	case !ok:
		return ""
	case e.Words != "":
		return e.Words
	}
	return e.Body
}

// Loki says in words what it did not take: an ingester lists entries and their
// total, the distributor groups equal errors. Only the counts stand in a form
// that can be read; the reasons are told by their texts.
var (
	totalIgnored = regexp.MustCompile(`total ignored: (\d+) out of (\d+)`)
	errorsLike   = regexp.MustCompile(`(\d+) errors like: `)
	dropTexts    = []struct{ part, reason string }{
		{"too far behind", behind},
		{"out of order", behind},
		{"too old", DroppedTooOld},
		{"too new", DroppedTooNew},
		{"max entry size", DroppedTooLarge},
		{"too large", DroppedTooLarge},
		{"too many structured metadata", DroppedTooLarge},
		{"rate limit exceeded", DroppedRateLimited},
		{"label names; limit", DroppedLabels},
		{"label name too long", DroppedLabels},
		{"label value too long", DroppedLabels},
		{"duplicate label name", DroppedLabels},
		{"error parsing labels", DroppedLabels},
		{"missing required labels", DroppedLabels},
	}
)

// dropped reads from the words of a 400 how many of the sent entries of one
// stream were dropped for which reason; ok is false where they do not say.
func dropped(words string, sent int) (drops map[string]int, ok bool) {
	if m := totalIgnored.FindStringSubmatch(words); m != nil {
		n, of := atMost(m[1], sent), atMost(m[2], sent)
		drops = map[string]int{dropReason(words): n}
		if refused := sent - of; refused > 0 {
			// The distributor had refused these and would have said why, but the
			// ingester's error stands in place of its own. What has ever been
			// too far behind is old, so most likely these are older still.
			drops[DroppedTooOld] += refused
		}
		return drops, true
	}
	groups := errorsLike.FindAllStringSubmatchIndex(words, -1)
	if len(groups) == 0 { // one error: of an entry, or of the stream's labels
		switch reason := dropReason(words); reason {
		case DroppedRejected:
			return nil, false
		case DroppedLabels:
			return map[string]int{reason: sent}, true
		default:
			return map[string]int{reason: 1}, true
		}
	}
	drops = map[string]int{}
	total := 0
	for i, g := range groups {
		end := len(words)
		if i+1 < len(groups) {
			end = groups[i+1][0]
		}
		n := atMost(words[g[2]:g[3]], sent)
		total += n
		drops[dropReason(words[g[1]:end])] += n
	}
	return drops, total <= sent
}

func dropReason(text string) string {
	text = strings.ToLower(text)
	for _, d := range dropTexts {
		if strings.Contains(text, d.part) {
			return d.reason
		}
	}
	return DroppedRejected
}

func atMost(digits string, limit int) int {
	n, err := strconv.Atoi(digits)
	if err != nil || n > limit {
		return limit
	}
	return n
}
