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
	Metadata map[string]string // structured metadata; nil for none
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
func (c *Client) Range(ctx context.Context, query string, from, to time.Time) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		p := &pager{c: c, query: query, limit: c.o.PageSize, streams: map[string]*Stream{}}
		for from.Before(to) {
			end := from.Add(c.o.MaxWindow)
			if end.After(to) {
				end = to
			}
			if !p.window(ctx, from, end, yield) {
				return
			}
			from = end
		}
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
	c       *Client
	query   string
	limit   int
	max     int // the server's limit, 0 while not met
	streams map[string]*Stream
}

// seenKey names an entry of one instant.
type seenKey struct{ stream, line string }

// window reads [from, to) and tells whether to go on.
func (p *pager) window(ctx context.Context, from, to time.Time, yield func(Entry, error) bool) bool {
	seen := map[seenKey]int{} // of the instant `from`, already yielded
	for from.Before(to) {
		page, full, err := p.page(ctx, from, to)
		if err != nil {
			return yield(Entry{}, err)
		}
		for _, e := range unseen(page, from, seen) {
			if !yield(e, nil) {
				return false
			}
		}
		if !full {
			return true
		}
		if last := page[len(page)-1].Time; last.After(from) {
			from, seen = last, count(page, last)
			continue
		}
		for k, n := range count(page, from) { // the whole page is one instant
			seen[k] = max(seen[k], n)
		}
		entries, err := p.wholeInstant(ctx, from)
		if err != nil {
			return yield(Entry{}, err)
		}
		for _, e := range unseen(entries, from, seen) {
			if !yield(e, nil) {
				return false
			}
		}
		from, seen = from.Add(1), map[seenKey]int{}
	}
	return true
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
		if !tooLarge || limit >= p.limit {
			return entries, err == nil && len(entries) >= p.limit, err
		}
		p.limit, p.max = limit, limit
	}
}

var limitWords = regexp.MustCompile(`max entries limit per query exceeded, limit > max_entries_limit(?:_per_query)? \((\d+) > (\d+)\)`)

// entryLimit finds the server's limit in its refusal.
func entryLimit(err error) (limit int, tooLarge bool) {
	var e *Error
	if !errors.As(err, &e) || e.Status != http.StatusBadRequest {
		return 0, false
	}
	m := limitWords.FindStringSubmatch(e.Body)
	if m == nil {
		return 0, false
	}
	limit, convErr := strconv.Atoi(m[2])
	return limit, convErr == nil && limit > 0
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

// wholeInstant reads one instant, with ever larger limits, then stream by stream.
func (p *pager) wholeInstant(ctx context.Context, at time.Time) ([]Entry, error) {
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
	return p.byStream(ctx, at)
}

// byStream reads one instant of each stream by itself.
func (p *pager) byStream(ctx context.Context, at time.Time) ([]Entry, error) {
	series, err := p.series(ctx, at)
	if err != nil {
		return nil, err
	}
	limit := max(p.limit, p.max)
	var all []Entry
	for _, labels := range series {
		q, err := narrow(p.query, labels)
		if err != nil {
			return nil, err
		}
		entries, err := p.fetch(ctx, q, at, at.Add(1), limit, "forward")
		if err != nil {
			return nil, err
		}
		if len(entries) >= limit {
			return nil, &Error{Op: "query_range", Err: fmt.Errorf(
				"%d or more lines of stream %s bear the one time %s, which is as many as this Loki gives: raise its max_entries_limit_per_query",
				limit, keyOf(labels), at.UTC().Format(time.RFC3339Nano))}
		}
		all = append(all, entries...)
	}
	sortEntries(all)
	return all, nil
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
		read:  func(r io.Reader) error { return json.NewDecoder(r).Decode(&answer) },
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
				Values []value
			}
		}
	}
	if err := json.NewDecoder(r).Decode(&answer); err != nil {
		return nil, err
	}
	if t := answer.Data.ResultType; t != "streams" {
		return nil, fmt.Errorf("the query gives %q, not log lines", t)
	}
	var out []Entry
	for _, s := range answer.Data.Result {
		st := p.stream(s.Stream)
		for _, v := range s.Values {
			out = append(out, Entry{Time: v.time, Line: v.line, Stream: st, Metadata: v.metadata})
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

// value is ["<nanoseconds>", "<line>", {"structuredMetadata": {...}}].
type value struct {
	time     time.Time
	line     string
	metadata map[string]string
}

func (v *value) UnmarshalJSON(b []byte) error {
	var parts []json.RawMessage
	if err := json.Unmarshal(b, &parts); err != nil {
		return err
	}
	if len(parts) < 2 {
		return fmt.Errorf("an entry of %d parts", len(parts))
	}
	var ns string
	if err := errors.Join(json.Unmarshal(parts[0], &ns), json.Unmarshal(parts[1], &v.line)); err != nil {
		return err
	}
	n, err := strconv.ParseInt(ns, 10, 64)
	if err != nil {
		return fmt.Errorf("entry time %q: %w", ns, err)
	}
	v.time = time.Unix(0, n).UTC()
	if len(parts) > 2 {
		var extra struct {
			StructuredMetadata map[string]string
			Parsed             map[string]string
		}
		if err := json.Unmarshal(parts[2], &extra); err != nil {
			return err
		}
		v.metadata = extra.StructuredMetadata
	}
	return nil
}
