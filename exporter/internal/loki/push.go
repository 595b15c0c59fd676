package loki

// This is the one file that imports Loki's own packages: the types of the push
// request, and the parser of its query language (NOTICE says what they link).

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/grafana/loki/v3/pkg/logproto"
	"github.com/grafana/loki/v3/pkg/logql/syntax"
	"github.com/klauspost/compress/snappy"
	"github.com/prometheus/prometheus/model/labels"
)

// PushStream is entries of one set of labels.
type PushStream struct {
	Labels  map[string]string
	Entries []PushEntry
}

// PushEntry is one line to push.
type PushEntry struct {
	Time     time.Time
	Line     string
	Metadata []Label // structured metadata
}

// Label is a name and its value.
type Label struct{ Name, Value string }

// Push sends entries as snappy-compressed protobuf. Requests that may succeed
// later are tried again; a 400 is Loki's word for "some were refused, the rest
// is stored" and is returned as it is, never sent a second time.
func (c *Client) Push(ctx context.Context, streams []PushStream) error {
	req := logproto.PushRequest{Streams: make([]logproto.Stream, 0, len(streams))}
	n := 0
	for _, s := range streams {
		out := logproto.Stream{Labels: keyOf(s.Labels), Entries: make([]logproto.Entry, 0, len(s.Entries))}
		for _, e := range s.Entries {
			entry := logproto.Entry{Timestamp: e.Time, Line: e.Line}
			for _, l := range e.Metadata {
				entry.StructuredMetadata = append(entry.StructuredMetadata, logproto.LabelAdapter{Name: l.Name, Value: l.Value})
			}
			out.Entries = append(out.Entries, entry)
		}
		n += len(s.Entries)
		req.Streams = append(req.Streams, out)
	}
	if n == 0 {
		return nil
	}
	raw, err := req.Marshal()
	if err != nil {
		return fmt.Errorf("loki: push: %w", err)
	}
	return c.do(ctx, &request{
		op: fmt.Sprintf("push of %d entries", n), method: http.MethodPost, path: "/loki/api/v1/push", body: snappy.Encode(nil, raw),
		header: map[string]string{"Content-Type": "application/x-protobuf"}, words: maxPushWords,
	})
}

// maxPushWords bounds what is read of a refusal: Loki has a sentence of some
// 200 bytes for each entry.
const maxPushWords = 16 << 20

// ValidateQuery says in a user's words what is wrong with a log query.
func ValidateQuery(query string) error {
	_, err := parseLogQuery(query)
	return err
}

func parseLogQuery(query string) (syntax.LogSelectorExpr, error) {
	if strings.TrimSpace(query) == "" {
		return nil, errors.New(`it is empty; give the streams that hold fail2ban's log, like {job="fail2ban"}`)
	}
	expr, err := syntax.ParseExpr(query)
	if err != nil {
		return nil, fmt.Errorf("%q is no LogQL: %w", query, err)
	}
	sel, ok := expr.(syntax.LogSelectorExpr)
	if !ok {
		return nil, fmt.Errorf(`%q gives numbers, not log lines; give the streams alone, like {job="fail2ban"}`, query)
	}
	return sel, nil
}

// filters tells whether a query passes over lines of the streams it selects.
func filters(query string) bool {
	sel, err := parseLogQuery(query)
	return err == nil && sel.HasFilter()
}

// selectorOf gives the stream selector of a query, without its pipeline.
func selectorOf(query string) (string, error) {
	sel, err := parseLogQuery(query)
	if err != nil {
		return "", err
	}
	return matchers(sel.Matchers()), nil
}

// narrow makes of a query the same for one stream alone.
func narrow(query string, stream map[string]string) (string, error) {
	return further(query, labels.MatchEqual, stream)
}

// without makes of a query the same without the streams that have these labels.
func without(query string, not map[string]string) (string, error) {
	return further(query, labels.MatchNotEqual, not)
}

// oneOf makes of a query the same for the streams whose label has one of these
// values, or has none of them.
func oneOf(query, name string, values []string, has bool) (string, error) {
	quoted := make([]string, len(values))
	for i, v := range values {
		quoted[i] = regexp.QuoteMeta(v)
	}
	t := labels.MatchRegexp
	if !has {
		t = labels.MatchNotRegexp
	}
	return further(query, t, map[string]string{name: strings.Join(quoted, "|")})
}

// further adds matchers to a query's selector.
func further(query string, t labels.MatchType, to map[string]string) (string, error) {
	sel, err := parseLogQuery(query)
	if err != nil {
		return "", err
	}
	all := slices.Clone(sel.Matchers())
	for _, name := range slices.Sorted(maps.Keys(to)) {
		m, err := labels.NewMatcher(t, name, to[name])
		if err != nil {
			return "", err
		}
		all = append(all, m)
	}
	selector, pipeline := matchers(sel.Matchers()), sel.String()
	rest, ok := strings.CutPrefix(pipeline, selector)
	if !ok {
		return "", fmt.Errorf("loki: query %q cannot be narrowed", query)
	}
	return matchers(all) + rest, nil
}

func matchers(ms []*labels.Matcher) string {
	parts := make([]string, len(ms))
	for i, m := range ms {
		parts[i] = m.String()
	}
	return "{" + strings.Join(parts, ", ") + "}"
}
