package publish

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"fail2ban-loki-exporter/exporter/internal/correlate"
	"fail2ban-loki-exporter/exporter/internal/loki"
	"fail2ban-loki-exporter/exporter/internal/offender"
)

// Job is the `job` label of everything that we write to Loki. Streams that bear
// it are never read as fail2ban's (rule 27).
const Job = "fail2ban-loki-exporter"

// DefaultBatchSize is the size in bytes at which a push is cut, as Promtail has it.
const DefaultBatchSize = 1 << 20

// Why Loki dropped entries: the values of `reason` on
// fail2ban_exporter_sink_dropped_total.
const (
	DroppedTooOld      = "too_old" // also too far behind the stream's newest entry
	DroppedTooNew      = "too_new"
	DroppedTooLarge    = "too_large"
	DroppedRateLimited = "rate_limited"
	DroppedRejected    = "rejected" // any other reason
)

// What became of a batch: the values of `result` on
// fail2ban_exporter_sink_batches_total.
const (
	BatchOK      = "ok"
	BatchPartial = "partial"
	BatchFailed  = "failed"
)

// DropReasons and BatchResults are the closed sets of those labels.
var (
	DropReasons  = []string{DroppedTooOld, DroppedTooNew, DroppedTooLarge, DroppedRateLimited, DroppedRejected}
	BatchResults = []string{BatchOK, BatchPartial, BatchFailed}
)

// Pusher pushes streams to Loki and tries again by itself where that can help.
type Pusher interface {
	Push(ctx context.Context, streams []loki.PushStream) error
}

// LokiOptions say where and how findings are pushed.
type LokiOptions struct {
	// Name tells this sink from others, in metrics and logs. Default "loki".
	Name string
	// Labels are added to every stream; job and host stand above them.
	Labels map[string]string
	// BatchSize is the size in bytes of about one push. Default DefaultBatchSize.
	BatchSize int
	// NameSource writes the source into the line and the metadata; set with
	// more than one source.
	NameSource bool
	// Batch, where set, is told what became of each batch.
	Batch func(result string)
	// Dropped, where set, is told how many entries Loki did not take, as far as
	// its answer says.
	Dropped func(reason string, n int)
}

// LokiSink pushes findings back to Loki, one stream for each host (rule 28).
// The same finding always yields the same bytes, so pushing twice is harmless.
type LokiSink struct {
	o LokiOptions
	p Pusher
}

const defaultSink = "loki"

// NewLokiSink makes a sink that pushes through p.
func NewLokiSink(p Pusher, o LokiOptions) *LokiSink {
	o.Name = cmp.Or(o.Name, defaultSink)
	o.BatchSize = cmp.Or(o.BatchSize, DefaultBatchSize)
	if o.Batch == nil {
		o.Batch = func(string) {}
	}
	if o.Dropped == nil {
		o.Dropped = func(string, int) {}
	}
	return &LokiSink{o: o, p: p}
}

// Name is the sink's name.
func (s *LokiSink) Name() string { return s.o.Name }

// Publish pushes the findings of one source. Entries that Loki refuses for what
// they are, are dropped and counted: sent again they would be refused again.
// Any other error ends the call; the findings may then be published again.
func (s *LokiSink) Publish(ctx context.Context, source string, fs []correlate.Finding) error {
	for _, batch := range s.batches(source, fs) {
		if err := s.push(ctx, batch); err != nil {
			return err
		}
	}
	return nil
}

// PublishRanking pushes what is said of the ranking of one source, in a stream
// of its own that has no host. For the rest it does as Publish does.
func (s *LokiSink) PublishRanking(ctx context.Context, source string, fs []offender.Finding) error {
	fs = slices.Clone(fs)
	slices.SortStableFunc(fs, func(a, b offender.Finding) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Row.Rank, b.Row.Rank), cmp.Compare(a.Row.ID, b.Row.ID))
	})
	labels := s.labels("")
	delete(labels, "host")
	for len(fs) > 0 {
		stream, size, n := loki.PushStream{Labels: labels}, 0, 0
		for ; n < len(fs); n++ {
			e := s.rankingEntry(source, &fs[n])
			if size += entrySize(&e); n > 0 && size > s.o.BatchSize {
				break
			}
			stream.Entries = append(stream.Entries, e)
		}
		if err := s.push(ctx, []loki.PushStream{stream}); err != nil {
			return err
		}
		fs = fs[n:]
	}
	return nil
}

func (s *LokiSink) push(ctx context.Context, streams []loki.PushStream) error {
	err := s.p.Push(ctx, streams)
	var refused *loki.Error
	switch {
	case err == nil:
		s.o.Batch(BatchOK)
		return nil
	case errors.As(err, &refused) && refused.Status == http.StatusBadRequest:
		s.o.Batch(BatchPartial)
		for reason, n := range dropped(refused.Body, entries(streams)) {
			s.o.Dropped(reason, n)
		}
		return nil
	}
	s.o.Batch(BatchFailed)
	return err
}

func entries(streams []loki.PushStream) (n int) {
	for _, st := range streams {
		n += len(st.Entries)
	}
	return n
}

// batches cuts the findings into pushes: host by host, each host's in time order.
func (s *LokiSink) batches(source string, fs []correlate.Finding) (out [][]loki.PushStream) {
	var batch []loki.PushStream
	size, host := 0, ""
	for _, f := range byHost(fs) {
		e := s.entry(source, &f)
		bytes := entrySize(&e)
		if size > 0 && size+bytes > s.o.BatchSize {
			out, batch, size = append(out, batch), nil, 0
		}
		if len(batch) == 0 || f.Host != host {
			batch, host = append(batch, loki.PushStream{Labels: s.labels(f.Host)}), f.Host
		}
		last := &batch[len(batch)-1]
		last.Entries = append(last.Entries, e)
		size += bytes
	}
	if len(batch) > 0 {
		out = append(out, batch)
	}
	return out
}

// byHost gives what is pushed, by host and then in the order of reports.
func byHost(fs []correlate.Finding) []correlate.Finding {
	out := make([]correlate.Finding, 0, len(fs))
	for _, f := range fs {
		if f.Kind != correlate.FindingEvent {
			out = append(out, f)
		}
	}
	slices.SortStableFunc(out, func(a, b correlate.Finding) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), correlate.Compare(a, b))
	})
	return out
}

func (s *LokiSink) labels(host string) map[string]string {
	l := make(map[string]string, len(s.o.Labels)+2)
	maps.Copy(l, s.o.Labels)
	l["job"], l["host"] = Job, valid(host)
	return l
}

func (s *LokiSink) entry(source string, f *correlate.Finding) loki.PushEntry {
	e := loki.PushEntry{Time: f.Time, Line: s.line(source, f)}
	e.Metadata = s.metadata(source, [][2]string{
		{"finding", string(f.Kind)}, {"finding_id", FindingID(source, f)}, {"jail", f.Jail}, {"ip", f.ID}, {"cause", findingCause(f)},
	})
	return e
}

func (s *LokiSink) metadata(source string, pairs [][2]string) (out []loki.Label) {
	if s.o.NameSource {
		pairs = append(pairs, [2]string{"source", source})
	}
	for _, p := range pairs {
		if p[1] != "" {
			out = append(out, loki.Label{Name: p[0], Value: limited(valid(p[1]))})
		}
	}
	return out
}

// FindingOffender is the kind of what is said of the ranking.
const FindingOffender correlate.FindingKind = "offender"

// rankingEntry is an id of the ranking. Whether and where it is banned now is
// left empty: that would depend on when it is said, and the same finding must
// always be the same bytes.
func (s *LokiSink) rankingEntry(source string, f *offender.Finding) loki.PushEntry {
	row := f.Row
	row.BannedNow, row.BannedWhere = false, nil
	state := cmp.Or(f.Reached.String(), "ranking")
	b := append(make([]byte, 0, 512), "finding="+FindingOffender...)
	b = appendLogfmt(b, "state", state)
	t := Table{Kind: KindOffenders, NameSource: s.o.NameSource}
	names := t.columns()
	for i, v := range t.values(OffenderRow(source, &row)) {
		if names[i] == "banned_now" {
			v = Value{}
		}
		b = appendLogfmt(b, names[i], v.s)
	}
	id := FindingID(source, &correlate.Finding{Kind: FindingOffender, ID: row.ID, Time: f.At})
	return loki.PushEntry{Time: f.At, Line: string(b), Metadata: s.metadata(source, [][2]string{
		{"finding", string(FindingOffender)}, {"finding_id", id}, {"ip", row.ID}, {"cause", state},
	})}
}

// line is the finding as logfmt: its kind, then the columns of its row.
func (s *LokiSink) line(source string, f *correlate.Finding) string {
	kind, row := FindingRow(source, f)
	b := append(make([]byte, 0, 512), "finding="...)
	b = append(b, f.Kind...)
	open := f.Kind == correlate.FindingBan && f.Ban.EndedBy == correlate.EndedOpen
	if open {
		b = appendLogfmt(b, "state", "open")
	}
	t := Table{Kind: kind, NameSource: s.o.NameSource}
	names := t.columns()
	for i, v := range t.values(row) {
		if open && slices.Contains(growing, names[i]) {
			v = Value{}
		}
		b = appendLogfmt(b, names[i], v.s)
	}
	return string(b)
}

// growing are the columns of an open ban that say how long so far: they depend
// on when it is said, and the same finding must always be the same bytes.
var growing = []string{"banned_seconds", "gap_seconds"}

// findingCause is why it happened: a restore's cause, a ban's origin, a
// restart's kind, what had ended the ban before a re-offence.
func findingCause(f *correlate.Finding) string {
	switch {
	case f.Restore != nil:
		return string(f.Restore.Cause)
	case f.Ban != nil:
		return string(f.Ban.Origin)
	case f.Restart != nil:
		return f.Restart.Kind
	case f.Reoffence != nil:
		return f.Reoffence.PreviousEndedBy
	}
	return ""
}

// FindingID names a finding by what makes it one: kind, source, host, jail, id
// and time, hashed to 128 bits in hexadecimal.
func FindingID(source string, f *correlate.Finding) string {
	h := sha256.New()
	for _, s := range []string{string(f.Kind), source, f.Host, f.Jail, f.ID} {
		h.Write(binary.AppendUvarint(nil, uint64(len(s))))
		h.Write([]byte(s))
	}
	h.Write(binary.AppendVarint(nil, f.Time.UnixNano()))
	return hex.EncodeToString(h.Sum(nil)[:16])
}

func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// maxMetadata keeps an attacker's endless id from getting its own finding
// refused: Loki takes 64 KB of metadata an entry. The line has it in full.
const maxMetadata = 1024

func limited(s string) string {
	if len(s) <= maxMetadata {
		return s
	}
	n := maxMetadata
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// entrySize is about what an entry takes in a push.
func entrySize(e *loki.PushEntry) int {
	n := len(e.Line) + 16
	for _, l := range e.Metadata {
		n += len(l.Name) + len(l.Value) + 6
	}
	return n
}

// Loki says in words what it did not take: the ingester lists entries and their
// total, the distributor groups equal errors. Only the counts stand in a form
// that can be read; the reasons are told by their texts.
var (
	totalIgnored = regexp.MustCompile(`total ignored: (\d+) out of`)
	errorsLike   = regexp.MustCompile(`(\d+) errors like: `)
	dropTexts    = []struct{ part, reason string }{
		{"too far behind", DroppedTooOld},
		{"too old", DroppedTooOld},
		{"too new", DroppedTooNew},
		{"max entry size", DroppedTooLarge},
		{"too large", DroppedTooLarge},
		{"too many structured metadata", DroppedTooLarge},
		{"rate limit exceeded", DroppedRateLimited},
	}
)

// dropped reads from the text of a 400 how many of the sent entries were dropped
// for which reason. A text that says neither means all of them.
func dropped(body string, sent int) map[string]int {
	if m := totalIgnored.FindStringSubmatch(body); m != nil {
		return map[string]int{dropReason(body): atMost(m[1], sent)}
	}
	groups := errorsLike.FindAllStringSubmatchIndex(body, -1)
	if len(groups) == 0 {
		if reason := dropReason(body); reason != DroppedRejected {
			return map[string]int{reason: 1}
		}
		return map[string]int{DroppedRejected: sent}
	}
	out := map[string]int{}
	for i, g := range groups {
		end := len(body)
		if i+1 < len(groups) {
			end = groups[i+1][0]
		}
		out[dropReason(body[g[1]:end])] += atMost(body[g[2]:g[3]], sent)
	}
	return out
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
