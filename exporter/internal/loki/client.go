// Package loki speaks Loki's HTTP API: reading log ranges whole and pushing
// entries. It knows nothing of fail2ban.
package loki

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/grafana/dskit/backoff"
	promconfig "github.com/prometheus/common/config"
)

// Options say which Loki, and how it is asked.
type Options struct {
	// URL is Loki's base URL, or the full path of one of its APIs.
	URL *url.URL
	// TenantID is sent as X-Scope-OrgID; empty sends none.
	TenantID string
	// HTTP are the client options of Prometheus.
	HTTP promconfig.HTTPClientConfig
	// Timeout bounds one request. Default 1 min.
	Timeout time.Duration
	// PageSize bounds how many entries one request asks for; the server's
	// limit is obeyed. Default 0: as many as the server allows.
	PageSize int
	// MaxParallel is how many requests a long range is read with at once.
	// Default 1. Short ones, as a follower reads them, are read in sequence.
	MaxParallel int
	// MaxBuffer bounds the bytes that answers and what is read ahead hold in
	// one call of Range. Default 64 MiB.
	MaxBuffer int64
	// MaxMessage is the largest message that Loki's parts take from each other
	// (its server.grpc_server_max_recv_msg_size, 4 MiB by default). Pages are
	// made to fit into it. Default 0: any.
	MaxMessage int64
	// MaxWindow is the longest range of one query; longer ones are cut. Loki
	// refuses ranges beyond its max_query_length (30d1h). Default 24 h.
	MaxWindow time.Duration
	// Backoff is how failed requests are tried again. Default 500 ms to 5 min,
	// 10 tries.
	Backoff backoff.Config
	// UserAgent names this program.
	UserAgent string
	// Observe, where set, is told of each request: its status code, or
	// "error", and how long it took.
	Observe func(code string, took time.Duration)
	// Retrying, where set, is told why a request is tried again. Requests that
	// run at once tell it at once.
	Retrying func(error)
	// Progress, where set, is told how far a call of Range has come, after each
	// page and by the goroutine that called it.
	Progress func(Progress)
	// JSON asks for no answer in protobuf.
	JSON bool
}

// Progress is how far a call of Range has come.
type Progress struct {
	From, To time.Time // what is read
	At       time.Time // everything before it has been given
	Entries  int       // given so far
	Bytes    int64     // of their lines
}

// Client asks one Loki as one tenant. It may be used concurrently.
type Client struct {
	o    Options
	base url.URL
	http *http.Client
	can  abilities
}

// apiPaths are the ends of URLs that users copy from their shippers.
var apiPaths = []string{"/loki/api/v1/push", "/loki/api/v1/query_range", "/loki/api/v1/query", "/loki/api/v1", "/api/prom/push"}

// New makes a client. It sends nothing.
func New(o Options) (*Client, error) {
	if o.URL == nil || o.URL.Host == "" {
		return nil, errors.New("loki: the URL names no server")
	}
	o.MaxParallel = max(o.MaxParallel, 1)
	o.MaxBuffer = cmp.Or(o.MaxBuffer, 64<<20)
	o.Timeout = cmp.Or(o.Timeout, time.Minute)
	o.MaxWindow = cmp.Or(o.MaxWindow, 24*time.Hour)
	o.Backoff = cmp.Or(o.Backoff, backoff.Config{MinBackoff: 500 * time.Millisecond, MaxBackoff: 5 * time.Minute, MaxRetries: 10})
	h, err := promconfig.NewClientFromConfig(o.HTTP, "loki")
	if err != nil {
		return nil, fmt.Errorf("loki: %w", err)
	}
	base := *o.URL
	base.Path = strings.TrimSuffix(base.Path, "/")
	for _, api := range apiPaths {
		base.Path = strings.TrimSuffix(base.Path, api)
	}
	base.RawQuery, base.Fragment = "", ""
	c := &Client{o: o, base: base, http: h}
	c.can.json.Store(o.JSON)
	return c, nil
}

// Close lets idle connections go.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Error is a request that failed.
type Error struct {
	Op     string // what was asked
	Status int    // 0 where no answer came
	Body   string // the first line of Loki's own words
	Words  string // all of them, where the request asked for more than the first line
	Err    error  // what went wrong without an answer
	// RetryAfter is how long the server asks to be left alone.
	RetryAfter time.Duration

	final bool // there is no status, and trying again does not help
}

func (e *Error) Error() string {
	if e.Status == 0 {
		return fmt.Sprintf("loki: %s: %v", e.Op, e.Err)
	}
	s := fmt.Sprintf("loki: %s: status %d %s", e.Op, e.Status, http.StatusText(e.Status))
	if e.Body != "" {
		s += ": " + e.Body
	}
	if hint := e.hint(); hint != "" {
		s += " (" + hint + ")"
	}
	return s
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Temporary tells whether trying again can help: no answer, overload, or an
// error of the server.
func (e *Error) Temporary() bool {
	if strings.Contains(e.Body, severalTenants) {
		return false
	}
	return e.Status == 0 && !e.final || e.Status == http.StatusTooManyRequests || e.Status >= 499
}

// severalTenants is how a Loki refuses, with a 500, what is asked as several
// tenants at once (3.7.8).
const severalTenants = "multiple org IDs present"

// hint says what to change.
func (e *Error) hint() string {
	switch {
	case strings.Contains(e.Body, severalTenants):
		return "this Loki does not answer for several tenants at once: set its querier.multi_tenant_queries_enabled, or give each tenant a source"
	case e.Status == http.StatusUnauthorized && strings.Contains(e.Body, "org id"):
		return "this Loki has tenants: set tenant_id"
	case e.Status == http.StatusUnauthorized:
		return "set basic_auth or authorization, and tenant_id where Loki has tenants"
	case e.Status == http.StatusForbidden:
		return "this user or tenant may not: check basic_auth, authorization and tenant_id"
	case e.Status == http.StatusNotFound:
		return "nothing like Loki answers there: check url"
	case e.Status == http.StatusBadRequest && strings.Contains(e.Body, "parse error"):
		return "check query"
	case e.Status == http.StatusBadRequest && strings.HasPrefix(e.Op, opRange):
		return "Loki refuses what it was asked: check query, lookback and the limits of this Loki or tenant"
	}
	return ""
}

const (
	maxAnswer = 64 << 20 // bytes of an answer that is no page
	maxWords  = 64 << 10 // bytes read of an error's body
	maxShown  = 300      // bytes shown of it
)

// request is one call of the API.
type request struct {
	op     string
	method string
	path   string
	query  url.Values
	body   []byte
	header map[string]string
	// words is how much of an error's words are kept.
	words int64
	// most is how large a good answer may be; 0 for maxAnswer.
	most int64
	// read takes the body of a good answer.
	read func(r io.Reader, contentType string) error
	// change, where set, sees each error first and tells whether it made the
	// request a smaller one, which is worth sending whatever the error was.
	change func(*Error) bool
}

// do sends a request and tries again where that can help.
func (c *Client) do(ctx context.Context, r *request) error {
	b := backoff.New(ctx, c.o.Backoff)
	for {
		err := c.once(ctx, r)
		var e *Error
		if err == nil || ctx.Err() != nil || !errors.As(err, &e) {
			return err
		}
		changed := r.change != nil && r.change(e)
		if !e.Temporary() {
			if !changed {
				return err
			}
			continue // refused, not overloaded: no need to wait
		}
		pause := max(b.NextDelay(), e.RetryAfter)
		if !b.Ongoing() {
			return fmt.Errorf("%w (gave up after %d tries)", err, b.NumRetries())
		}
		if c.o.Retrying != nil {
			c.o.Retrying(err)
		}
		if !sleep(ctx, pause) {
			return err
		}
	}
}

// sleep pauses and tells whether the context still runs.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// maxRetryAfter bounds how long a server may silence us.
const maxRetryAfter = 5 * time.Minute

func (c *Client) once(ctx context.Context, r *request) error {
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	u := c.base
	u.Path += r.path
	u.RawQuery = r.query.Encode()
	req, err := http.NewRequestWithContext(ctx, r.method, u.String(), bytes.NewReader(r.body))
	if err != nil {
		return &Error{Op: r.op, Err: err}
	}
	req.Header.Set("User-Agent", c.o.UserAgent)
	if c.o.TenantID != "" {
		req.Header.Set("X-Scope-OrgID", c.o.TenantID)
	}
	for k, v := range r.header {
		req.Header.Set(k, v)
	}
	start := time.Now()
	code := "error"
	if c.o.Observe != nil {
		defer func() { c.o.Observe(code, time.Since(start)) }()
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return &Error{Op: r.op, Err: plain(err)}
	}
	defer resp.Body.Close()
	code = strconv.Itoa(resp.StatusCode)
	if resp.StatusCode/100 != 2 {
		return refused(r, resp)
	}
	if r.read == nil {
		return nil
	}
	b := &bounded{r: resp.Body, left: cmp.Or(r.most, maxAnswer)}
	if err := r.read(b, resp.Header.Get("Content-Type")); err != nil {
		return &Error{Op: r.op, Err: fmt.Errorf("reading the answer: %w", cmp.Or(b.err, err)), final: !b.cut(err)}
	}
	return nil
}

// bounded reads an answer up to a size and remembers why it broke off, which
// a decoder's error does not tell.
type bounded struct {
	r    io.Reader
	left int64
	err  error
}

var errTooLarge = errors.New("it is larger than there is room for: a larger max_buffer helps")

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		b.err = errTooLarge
		return 0, b.err
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}

// cut tells whether the answer broke off on its way, so that the next may be
// whole; any other error the same answer would give again.
func (b *bounded) cut(err error) bool {
	if b.err != nil {
		return !errors.Is(b.err, errTooLarge)
	}
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, errDamaged)
}

// decodeJSON reads an answer of Loki's API.
func decodeJSON(r io.Reader, v any) error {
	err := json.NewDecoder(r).Decode(v)
	if err == nil || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return err
	}
	return notLoki(err)
}

// notLoki says what it means that an answer cannot be read.
func notLoki(err error) error { return fmt.Errorf("no answer of Loki's API, check url: %w", err) }

// plain drops the method and the URL from the client's error: the operation
// says them, and a URL may hold a password.
func plain(err error) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		return ue.Err
	}
	return err
}

func refused(r *request, resp *http.Response) *Error {
	e := &Error{Op: r.op, Status: resp.StatusCode}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, max(maxWords, r.words)))
	e.Body = firstLine(string(body))
	if int64(len(body)) < r.words { // what is cut tells no numbers
		e.Words = string(body)
	}
	e.RetryAfter = retryAfter(resp.Header.Get("Retry-After"), time.Now())
	return e
}

// retryAfter reads the header of that name: seconds, or a date.
func retryAfter(s string, now time.Time) time.Duration {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return time.Duration(min(max(n, 0), int64(maxRetryAfter/time.Second))) * time.Second
	}
	if at, err := http.ParseTime(s); err == nil {
		return min(max(at.Sub(now), 0), maxRetryAfter)
	}
	return 0
}

// firstLine cuts a body to what a log line may hold.
func firstLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > maxShown {
		s = strings.ToValidUTF8(s[:maxShown], "") + "..."
	}
	return s
}

// Ready asks whether Loki takes requests, by a request that every gateway
// lets through and that needs the same rights as reading.
func (c *Client) Ready(ctx context.Context) error {
	return c.once(ctx, &request{
		op: "labels", method: http.MethodGet, path: "/loki/api/v1/labels",
		read: func(r io.Reader, _ string) error {
			var answer struct{ Status string }
			if err := decodeJSON(r, &answer); err != nil {
				return err
			}
			if answer.Status != "success" {
				return errors.New("no answer of Loki's API, check url")
			}
			return nil
		},
	})
}

// Labels lists the label names of a time.
func (c *Client) Labels(ctx context.Context, from, to time.Time) ([]string, error) {
	return c.strings(ctx, "labels", "/loki/api/v1/labels", from, to)
}

// LabelValues lists the values of a label in a time.
func (c *Client) LabelValues(ctx context.Context, name string, from, to time.Time) ([]string, error) {
	return c.strings(ctx, "values of label "+name, "/loki/api/v1/label/"+url.PathEscape(name)+"/values", from, to)
}

func (c *Client) strings(ctx context.Context, op, path string, from, to time.Time) ([]string, error) {
	var answer struct{ Data []string }
	err := c.do(ctx, &request{
		op: op, method: http.MethodGet, path: path,
		query: url.Values{"start": {nano(from)}, "end": {nano(to)}},
		read:  func(r io.Reader, _ string) error { return decodeJSON(r, &answer) },
	})
	return answer.Data, err
}

// Address is where the client sends its requests, without secrets.
func (c *Client) Address() string { return c.base.Redacted() }

func nano(t time.Time) string { return strconv.FormatInt(t.UnixNano(), 10) }
