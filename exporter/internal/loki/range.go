package loki

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Entry is one log line.
type Entry struct {
	Time     time.Time
	Line     string
	Stream   *Stream
	Metadata map[string]string // structured metadata; nil for none; shared, not to be changed
}

// Stream is a set of labels. The entries of one stream within one call of
// Range share one.
type Stream struct {
	Labels map[string]string
	// Key names the stream: its labels as Loki writes them, sorted.
	Key string
}

// Range reads every entry of the half-open window [from, to), oldest first;
// entries of one instant come in no promised order.
//
// Several entries may share an instant and a page may end among them, so the
// next page begins at the last instant, and what was seen of it already is
// taken out as a multiset of (stream, line): lines of several hosts may be
// equal. An instant that fills a page is asked for again with a larger limit
// and, beyond the server's, stream by stream. It is never stepped over.
//
// An error is the last value, even for a reader that goes on.
func (c *Client) Range(ctx context.Context, query string, from, to time.Time) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		p := &pager{c: c, query: query, limit: c.o.PageSize, span: c.o.MaxWindow, streams: map[string]*Stream{}}
		p.window(ctx, from, to, yield)
	}
}

// Newest reads the newest entry of a time.
func (c *Client) Newest(ctx context.Context, query string, from, to time.Time) (Entry, bool, error) {
	p := &pager{c: c, query: query, streams: map[string]*Stream{}}
	page, err := p.fetch(ctx, query, from, to, 1, "backward")
	if err != nil || len(page) == 0 {
		return Entry{}, false, err
	}
	return page[0], true, nil
}

// pager reads page after page.
type pager struct {
	c     *Client
	query string
	limit int
	max   int // the server's limit, 0 while not met
	// span is how long a window is asked for. Loki cuts a query into hours and
	// cancels what is left of them once the limit is reached, which costs it
	// dearly: windows are made so that a page about fills them.
	span    time.Duration
	streams map[string]*Stream
	extras  map[string]map[string]string // structured metadata by its JSON
}

// seenKey names an entry of one instant.
type seenKey struct{ stream, line string }

// window reads [from, to).
func (p *pager) window(ctx context.Context, from, to time.Time, yield func(Entry, error) bool) {
	var seen map[seenKey]int // of the instant `from`, already yielded
	for from.Before(to) {
		end := from.Add(p.span)
		if end.After(to) {
			end = to
		}
		page, full, err := p.page(ctx, from, end)
		if err != nil {
			yield(Entry{}, err)
			return
		}
		for _, e := range unseen(page, from, seen) {
			if !yield(e, nil) {
				return
			}
		}
		p.adapt(page, from, end, full)
		if !full {
			from, seen = end, nil
			continue
		}
		if last := page[len(page)-1].Time; last.After(from) {
			from, seen = last, count(page, last)
			continue
		}
		if seen == nil {
			seen = map[seenKey]int{}
		}
		for k, n := range count(page, from) { // the whole page is one instant
			seen[k] = max(seen[k], n)
		}
		entries, err := p.wholeInstant(ctx, from, seen)
		if err != nil {
			yield(Entry{}, err)
			return
		}
		for _, e := range unseen(entries, from, seen) {
			if !yield(e, nil) {
				return
			}
		}
		from, seen = from.Add(1), nil
	}
}

const (
	leastSpan = time.Second
	// growth is how much longer a window becomes after a page that was not half
	// full.
	growth = 4
)

// adapt makes the next windows such that a page about fills them.
func (p *pager) adapt(page []Entry, from, end time.Time, full bool) {
	switch {
	case full:
		p.span = max(page[len(page)-1].Time.Sub(from), leastSpan)
	case len(page) < p.limit/2 && end.Sub(from) >= p.span:
		p.span = min(p.span*growth, p.c.o.MaxWindow)
	}
}

// count gives the multiset of a page's entries of one instant.
func count(page []Entry, at time.Time) map[seenKey]int {
	n := map[seenKey]int{}
	for i := range page {
		if page[i].Time.Equal(at) {
			n[seenKey{page[i].Stream.Key, page[i].Line}]++
		}
	}
	return n
}

// page reads one page, with a smaller limit where the server demands one.
func (p *pager) page(ctx context.Context, from, to time.Time) (entries []Entry, full bool, err error) {
	for {
		entries, err = p.fetch(ctx, p.query, from, to, p.limit, "forward")
		limit, tooLarge := entryLimit(err)
		if tooLarge && limit == 0 {
			limit = p.limit / 2
		}
		if !tooLarge || limit == 0 || limit >= p.limit {
			return entries, err == nil && len(entries) >= p.limit, err
		}
		p.limit, p.max = limit, limit
	}
}

var limitWords = regexp.MustCompile(`max entries limit per query exceeded, limit > max_entries_limit(?:_per_query)? \((\d+) > (\d+)\)`)

// entryLimit finds the server's limit in its refusal; 0 where it does not say.
func entryLimit(err error) (limit int, tooLarge bool) {
	var e *Error
	if !errors.As(err, &e) || e.Status != http.StatusBadRequest {
		return 0, false
	}
	if m := limitWords.FindStringSubmatch(e.Body); m != nil {
		limit, _ = strconv.Atoi(m[2])
	}
	return limit, strings.Contains(e.Body, "max entries limit")
}

// unseen drops from a page what was yielded of its first instant.
func unseen(page []Entry, first time.Time, seen map[seenKey]int) []Entry {
	if len(seen) == 0 {
		return page
	}
	left := maps.Clone(seen)
	return slices.DeleteFunc(slices.Clone(page), func(e Entry) bool {
		if !e.Time.Equal(first) {
			return false
		}
		k := seenKey{e.Stream.Key, e.Line}
		if left[k] == 0 {
			return false
		}
		left[k]--
		return true
	})
}

// largestLimit bounds how far a limit is raised for one instant.
const largestLimit = 1 << 20

// wholeInstant reads one instant, with ever larger limits, then stream by
// stream. What was seen of it must be in it.
func (p *pager) wholeInstant(ctx context.Context, at time.Time, seen map[seenKey]int) ([]Entry, error) {
	limit := p.limit
	for limit < largestLimit && (p.max == 0 || limit < p.max) {
		limit *= 2
		if p.max > 0 {
			limit = min(limit, p.max)
		}
		entries, err := p.fetch(ctx, p.query, at, at.Add(1), limit, "forward")
		if top, tooLarge := entryLimit(err); tooLarge {
			p.max = max(top, p.limit)
			break
		}
		if err != nil || len(entries) < limit {
			return entries, err
		}
	}
	entries, err := p.byStream(ctx, at)
	if err != nil {
		return nil, err
	}
	have := count(entries, at)
	for k, n := range seen {
		if have[k] < n {
			return nil, overflow(at, "%d or more lines bear one time, and Loki's list of series lacks %s to read them apart", limit, k.stream)
		}
	}
	return entries, nil
}

// overflow is the error of an instant that cannot be read whole.
func overflow(at time.Time, format string, args ...any) error {
	err := fmt.Errorf(format+": raise the server's max_entries_limit_per_query", args...)
	return &Error{Op: "query_range at " + at.UTC().Format(time.RFC3339Nano), Err: err, final: true}
}

// byStream reads one instant of each stream by itself.
func (p *pager) byStream(ctx context.Context, at time.Time) ([]Entry, error) {
	series, err := p.series(ctx, at)
	if err != nil {
		return nil, err
	}
	limit := max(p.limit, p.max)
	var all []Entry
	for i, labels := range alone(series) {
		q, err := narrow(p.query, labels)
		if err != nil {
			return nil, err
		}
		entries, err := p.fetch(ctx, q, at, at.Add(1), limit, "forward")
		if err != nil {
			return nil, err
		}
		if len(entries) >= limit {
			return nil, overflow(at, "%d or more lines of stream %s bear one time, as many as Loki gives at once", limit, keyOf(series[i]))
		}
		all = append(all, entries...)
	}
	sortEntries(all)
	return all, nil
}

// alone completes each stream's labels with the others' names, empty: to
// LogQL {host="a"} is also every stream that has more labels than that.
func alone(series []map[string]string) []map[string]string {
	names := map[string]string{}
	for _, labels := range series {
		for name := range labels {
			names[name] = ""
		}
	}
	out := make([]map[string]string, len(series))
	for i, labels := range series {
		out[i] = maps.Clone(names)
		maps.Copy(out[i], labels)
	}
	return out
}

func (p *pager) series(ctx context.Context, at time.Time) ([]map[string]string, error) {
	selector, err := selectorOf(p.query)
	if err != nil {
		return nil, err
	}
	var answer struct{ Data []map[string]string }
	err = p.c.do(ctx, request{
		op: "series", method: http.MethodGet, path: "/loki/api/v1/series",
		query: url.Values{"match[]": {selector}, "start": {nano(at.Add(-time.Hour))}, "end": {nano(at.Add(time.Hour))}},
		read:  func(r io.Reader) error { return decodeJSON(r, &answer) },
	})
	return answer.Data, err
}

// fetch asks once and merges the streams of the answer in time order.
func (p *pager) fetch(ctx context.Context, query string, from, to time.Time, limit int, direction string) (entries []Entry, err error) {
	err = p.c.do(ctx, request{
		op:     fmt.Sprintf("query_range %s to %s", from.UTC().Format(time.RFC3339), to.UTC().Format(time.RFC3339)),
		method: http.MethodGet, path: "/loki/api/v1/query_range",
		query: url.Values{
			"query": {query}, "start": {nano(from)}, "end": {nano(to)},
			"limit": {strconv.Itoa(limit)}, "direction": {direction},
		},
		// without it Loki makes several streams of one: structured metadata
		// would count as labels
		header: map[string]string{"X-Loki-Response-Encoding-Flags": "categorize-labels"},
		read: func(r io.Reader) (err error) {
			entries, err = p.decode(r)
			return err
		},
	})
	return entries, err
}

// decode reads the JSON form of an answer.
func (p *pager) decode(r io.Reader) ([]Entry, error) {
	var answer struct {
		Status string
		Data   struct {
			ResultType string
			Result     []struct {
				Stream map[string]string
				Values json.RawMessage
			}
		}
	}
	if err := decodeJSON(r, &answer); err != nil {
		return nil, err
	}
	if t := answer.Data.ResultType; t != "streams" {
		return nil, fmt.Errorf("the query gives %q, not log lines", t)
	}
	var out []Entry
	for _, s := range answer.Data.Result {
		st := p.stream(s.Stream)
		var err error
		if out, err = p.entries(s.Values, st, out); err != nil {
			return nil, notLoki(err)
		}
	}
	sortEntries(out)
	return out, nil
}

func sortEntries(es []Entry) {
	slices.SortStableFunc(es, func(a, b Entry) int {
		if c := a.Time.Compare(b.Time); c != 0 {
			return c
		}
		return strings.Compare(a.Stream.Key, b.Stream.Key)
	})
}

func (p *pager) stream(labels map[string]string) *Stream {
	key := keyOf(labels)
	s, ok := p.streams[key]
	if !ok {
		s = &Stream{Labels: labels, Key: key}
		p.streams[key] = s
	}
	return s
}

// keyOf writes labels as Loki does, sorted.
func keyOf(labels map[string]string) string {
	var b strings.Builder
	b.WriteByte('{')
	for i, name := range slices.Sorted(maps.Keys(labels)) {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(name + "=" + strconv.Quote(labels[name]))
	}
	b.WriteByte('}')
	return b.String()
}
