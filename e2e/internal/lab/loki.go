package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxBatch bounds a push request: Loki takes a batch as a whole or not at all,
// and none above its burst limit.
const maxBatch = 900_000

// maxEntries is what a Loki returns to one query by default.
const maxEntries = 5000

// Labels returns the stream labels of the i-th line pushed.
type Labels func(i int, l Line) map[string]string

// Spread puts the lines of each host in turn into n streams, so that they meet
// again only by their time.
func Spread(n int) Labels {
	return func(i int, l Line) map[string]string {
		labels := map[string]string{"job": "fail2ban", "host": l.Host}
		if n > 1 {
			labels["filename"] = fmt.Sprintf("/var/log/fail2ban.%d.log", i%n)
		}
		return labels
	}
}

type pushStream struct {
	Stream map[string]string `json:"stream"`
	Values [][]any           `json:"values"` // time, line and, if there is any, metadata
}

// Push writes lines into Loki, in their order.
func Push(ctx context.Context, lokiURL, tenant string, labels Labels, lines []Line) error {
	batch, size := map[string]*pushStream{}, 0
	flush := func() error {
		if size == 0 {
			return nil
		}
		var streams []*pushStream
		for _, key := range slices.Sorted(maps.Keys(batch)) {
			streams = append(streams, batch[key])
		}
		body, err := json.Marshal(map[string]any{"streams": streams})
		if err != nil {
			return err
		}
		batch, size = map[string]*pushStream{}, 0
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, lokiURL+"/loki/api/v1/push", bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		setTenant(req, tenant)
		_, err = do(req, http.StatusNoContent)
		return err
	}
	for i, l := range lines {
		stream := labels(i, l)
		key := fmt.Sprint(stream) // maps print sorted
		if batch[key] == nil {
			batch[key] = &pushStream{Stream: stream}
		}
		value := []any{strconv.FormatInt(l.Time.UnixNano(), 10), l.Text}
		if len(l.Metadata) > 0 {
			value = append(value, l.Metadata)
		}
		batch[key].Values = append(batch[key].Values, value)
		size += len(l.Text) + 64 // stamp, quotes, escapes
		if size >= maxBatch {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// Play pushes lines when their time has come: those of the past at once.
func Play(ctx context.Context, lokiURL, tenant string, labels Labels, lines []Line) error {
	lines = slices.Clone(lines)
	slices.SortStableFunc(lines, func(a, b Line) int { return a.Time.Compare(b.Time) })
	for len(lines) > 0 {
		now := time.Now()
		due := slices.IndexFunc(lines, func(l Line) bool { return l.Time.After(now) })
		if due < 0 {
			due = len(lines)
		}
		if err := Push(ctx, lokiURL, tenant, labels, lines[:due]); err != nil {
			return err
		}
		lines = lines[due:]
		if len(lines) == 0 {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(max(time.Until(lines[0].Time), time.Second)):
		}
	}
	return nil
}

// Entry is a line as Loki returns it.
type Entry struct {
	Labels   map[string]string
	Metadata map[string]string // structured metadata and what the query parsed
	Time     time.Time
	Line     string
}

// QueryLoki returns what a log query finds in [from,to), oldest first. More
// than one answer of Loki can hold is an error.
func QueryLoki(ctx context.Context, lokiURL, tenant, query string, from, to time.Time) ([]Entry, error) {
	v := url.Values{
		"query":     {query},
		"start":     {strconv.FormatInt(from.UnixNano(), 10)},
		"end":       {strconv.FormatInt(to.UnixNano(), 10)},
		"limit":     {strconv.Itoa(maxEntries)},
		"direction": {"forward"},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, lokiURL+"/loki/api/v1/query_range?"+v.Encode(), nil)
	if err != nil {
		return nil, err
	}
	setTenant(req, tenant)
	req.Header.Set("X-Loki-Response-Encoding-Flags", "categorize-labels")
	body, err := do(req, http.StatusOK)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Data struct {
			ResultType string
			Result     []struct {
				Stream map[string]string
				Values [][]json.RawMessage
			}
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("lab: Loki's answer: %w", err)
	}
	if answer.Data.ResultType != "streams" {
		return nil, fmt.Errorf("lab: Loki answered %q to a log query", answer.Data.ResultType)
	}
	var entries []Entry
	for _, stream := range answer.Data.Result {
		for _, value := range stream.Values {
			e, err := entry(value)
			if err != nil {
				return nil, fmt.Errorf("lab: Loki's answer: %w", err)
			}
			e.Labels = stream.Stream
			entries = append(entries, e)
		}
	}
	if len(entries) >= maxEntries {
		return nil, fmt.Errorf("lab: %s finds %d lines or more", query, maxEntries)
	}
	slices.SortStableFunc(entries, func(a, b Entry) int { return a.Time.Compare(b.Time) })
	return entries, nil
}

// entry decodes one [time, line, {structuredMetadata, parsed}].
func entry(value []json.RawMessage) (Entry, error) {
	if len(value) < 2 {
		return Entry{}, fmt.Errorf("an entry of %d parts", len(value))
	}
	var stamp string
	e := Entry{Metadata: map[string]string{}}
	if err := json.Unmarshal(value[0], &stamp); err != nil {
		return e, err
	}
	ns, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil {
		return e, err
	}
	e.Time = time.Unix(0, ns).UTC()
	if err := json.Unmarshal(value[1], &e.Line); err != nil {
		return e, err
	}
	if len(value) > 2 {
		var more struct{ StructuredMetadata, Parsed map[string]string }
		if err := json.Unmarshal(value[2], &more); err != nil {
			return e, err
		}
		maps.Copy(e.Metadata, more.StructuredMetadata)
		maps.Copy(e.Metadata, more.Parsed)
	}
	return e, nil
}

func setTenant(req *http.Request, tenant string) {
	if tenant != "" {
		req.Header.Set("X-Scope-OrgID", strings.TrimSpace(tenant))
	}
}
