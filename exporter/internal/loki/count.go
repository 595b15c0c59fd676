package loki

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// StreamCount is how many entries a stream has in a range.
type StreamCount struct {
	Stream *Stream
	N      uint64
}

// seriesAtOnce is how many streams one counting query may tell apart: Loki's
// max_query_series is 500 where nobody changed it.
const seriesAtOnce = 400

// Count counts the entries of the half-open window [from, to), which is of whole
// milliseconds, over all streams
// but those with the labels of not. Its answer is one number, so it may be
// asked often.
func (c *Client) Count(ctx context.Context, query string, not map[string]string, from, to time.Time) (uint64, error) {
	q, err := counting(query, not, from, to)
	if err != nil {
		return 0, err
	}
	samples, err := c.instant(ctx, "sum("+q+")", to)
	if err != nil || len(samples) == 0 {
		return 0, err
	}
	return samples[0].n, nil
}

// CountByStream counts the same stream by stream. known are streams that may
// be there: with many of them several queries are needed.
func (c *Client) CountByStream(ctx context.Context, query string, not map[string]string, known []*Stream, from, to time.Time) ([]StreamCount, error) {
	names, err := c.labelNames(ctx, query, from, to)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	var out []StreamCount
	parts, err := partitions(query, known)
	if err != nil {
		return nil, err
	}
	for _, q := range parts {
		q, err := counting(q, not, from, to)
		if err != nil {
			return nil, err
		}
		samples, err := c.instant(ctx, "sum by ("+strings.Join(names, ", ")+") ("+q+")", to)
		if err != nil {
			return nil, err
		}
		for _, s := range samples {
			out = append(out, StreamCount{Stream: &Stream{Labels: s.Metric, Key: keyOf(s.Metric)}, N: s.n})
		}
	}
	return out, nil
}

// StreamOf is the stream of a key.
func StreamOf(key string) (*Stream, error) {
	labels, err := parseLabels(key)
	if err != nil {
		return nil, fmt.Errorf("loki: %q: %w", key, err)
	}
	return &Stream{Labels: labels, Key: keyOf(labels)}, nil
}

// RangeOf reads one stream as Range reads all.
func (c *Client) RangeOf(ctx context.Context, query string, s *Stream, from, to time.Time) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for e, err := range c.RangeWith(ctx, query, s.Labels, from, to) {
			if err == nil && e.Stream.Key != s.Key { // it has more labels than these
				continue
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

// RangeWith reads the streams that have these labels as Range reads all.
func (c *Client) RangeWith(ctx context.Context, query string, labels map[string]string, from, to time.Time) iter.Seq2[Entry, error] {
	q, err := narrow(query, labels)
	if err != nil {
		return func(yield func(Entry, error) bool) { yield(Entry{}, err) }
	}
	return c.Range(ctx, q, from, to)
}

// Series lists the streams that a query reads.
func (c *Client) Series(ctx context.Context, query string, from, to time.Time) ([]*Stream, error) {
	series, err := c.series(ctx, query, from, to)
	out := make([]*Stream, len(series))
	for i, labels := range series {
		out[i] = &Stream{Labels: labels, Key: keyOf(labels)}
	}
	return out, err
}

func (c *Client) series(ctx context.Context, query string, from, to time.Time) ([]map[string]string, error) {
	selector, err := selectorOf(query)
	if err != nil {
		return nil, err
	}
	var answer struct{ Data []map[string]string }
	err = c.do(ctx, &request{
		op: "series", method: http.MethodGet, path: "/loki/api/v1/series",
		query: url.Values{"match[]": {selector}, "start": {nano(from)}, "end": {nano(to)}},
		read:  func(r io.Reader, _ string) error { return decodeJSON(r, &answer) },
	})
	return answer.Data, err
}

// counting makes of a log query the count of what it finds in [from, to).
// Loki's ranges are open at their beginning and closed at their end, and their
// length is in whole milliseconds (3.7.8: unknown unit "ns").
func counting(query string, not map[string]string, from, to time.Time) (string, error) {
	q, err := without(query, not)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("count_over_time(%s [%dms])", q, to.Sub(from).Milliseconds()), nil
}

// partitions cuts a query into several of which none finds more streams than
// one answer may tell apart: by the label that tells most of the known apart.
func partitions(query string, known []*Stream) ([]string, error) {
	if len(known) <= seriesAtOnce {
		return []string{query}, nil
	}
	values := map[string][]string{}
	for _, s := range known {
		for name, v := range s.Labels {
			values[name] = append(values[name], v)
		}
	}
	best := ""
	for name, vs := range values {
		slices.Sort(vs)
		values[name] = slices.Compact(vs)
		if n, m := len(values[name]), len(values[best]); n > m || n == m && name < best {
			best = name
		}
	}
	each := max(1, seriesAtOnce*len(values[best])/len(known)) // a value may have several streams
	var out []string
	for part := range slices.Chunk(values[best], each) {
		q, err := oneOf(query, best, part, true)
		if err != nil {
			return nil, err
		}
		out = append(out, q)
	}
	unknown, err := oneOf(query, best, values[best], false)
	return append(out, unknown), err
}

// labelNames are the names of the labels of the streams that a query reads.
func (c *Client) labelNames(ctx context.Context, query string, from, to time.Time) ([]string, error) {
	selector, err := selectorOf(query)
	if err != nil {
		return nil, err
	}
	var answer struct{ Data []string }
	err = c.do(ctx, &request{
		op: "labels", method: http.MethodGet, path: "/loki/api/v1/labels",
		query: url.Values{"start": {nano(from)}, "end": {nano(to)}, "query": {selector}},
		read:  func(r io.Reader, _ string) error { return decodeJSON(r, &answer) },
	})
	if strings.Contains(c.o.TenantID, "|") {
		answer.Data = append(answer.Data, TenantLabel) // which is not listed
	}
	return answer.Data, err
}

// TenantLabel is the label that tells the tenants' streams apart where a query
// asks as several.
const TenantLabel = "__tenant_id__"

// sample is one number of an answer.
type sample struct {
	Metric map[string]string  `json:"metric"`
	Value  [2]json.RawMessage `json:"value"`
	n      uint64
}

// instant asks a metric query as of the last nanosecond before a time. The
// query may be long, so it goes as a form.
func (c *Client) instant(ctx context.Context, query string, before time.Time) ([]sample, error) {
	var answer struct {
		Data struct {
			ResultType string   `json:"resultType"`
			Result     []sample `json:"result"`
		} `json:"data"`
	}
	form := url.Values{"query": {query}, "time": {nano(before.Add(-1))}}
	err := c.do(ctx, &request{
		op: "query", method: http.MethodPost, path: "/loki/api/v1/query", body: []byte(form.Encode()),
		header: map[string]string{"Content-Type": "application/x-www-form-urlencoded"},
		read: func(r io.Reader, _ string) error {
			if err := decodeJSON(r, &answer); err != nil {
				return err
			}
			for i := range answer.Data.Result {
				if err := answer.Data.Result[i].count(); err != nil {
					return notLoki(err)
				}
			}
			return nil
		},
	})
	return answer.Data.Result, err
}

func (s *sample) count() error {
	var text string
	if err := json.Unmarshal(s.Value[1], &text); err != nil {
		return err
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || f < 0 {
		return fmt.Errorf("%q is no count", text)
	}
	s.n = uint64(f)
	return nil
}
