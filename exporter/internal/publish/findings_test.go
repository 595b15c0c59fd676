package publish

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"fail2ban-loki-exporter/exporter/internal/correlate"
	"fail2ban-loki-exporter/exporter/internal/loki"
	"fail2ban-loki-exporter/exporter/internal/offender"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// recorder is a Loki that notes what it is given and answers as told.
type recorder struct {
	pushes [][]loki.PushStream
	err    error
}

func (r *recorder) Push(_ context.Context, streams []loki.PushStream) error {
	r.pushes = append(r.pushes, streams)
	return r.err
}

func (r *recorder) String() string {
	var b strings.Builder
	for _, p := range r.pushes {
		b.WriteString("== push ==\n")
		for _, s := range p {
			fmt.Fprintln(&b, s.Labels)
			for _, e := range s.Entries {
				fmt.Fprintf(&b, "  %s %v\n    %s\n", e.Time.Format(timeForm), e.Metadata, e.Line)
			}
		}
	}
	return b.String()
}

func publish(t *testing.T, s *LokiSink, source string, fs []correlate.Finding) {
	t.Helper()
	s.Publish(context.Background(), source, at("23:00:00.000"), fs, nil)
	if err := s.round(context.Background()); err != nil {
		t.Fatalf("publish: %v", err)
	}
}

func TestFindings(t *testing.T) {
	var r recorder
	publish(t, NewLokiSink(&r, LokiOptions{Labels: map[string]string{"env": "prod", "job": "mine", "host": "mine"}}), "main", findings())
	golden(t, "findings.txt", r.String())
}

// The order of what is given, and how it is cut, changes no byte.
func TestFindingsAreStable(t *testing.T) {
	entriesOf := func(r *recorder) (out []string) {
		for _, p := range r.pushes {
			for _, s := range p {
				for _, e := range s.Entries {
					out = append(out, fmt.Sprint(s.Labels, e))
				}
			}
		}
		return out
	}
	given := findings()
	var once, again recorder
	publish(t, NewLokiSink(&once, LokiOptions{}), "main", given)
	slices.Reverse(given)
	publish(t, NewLokiSink(&again, LokiOptions{BatchSize: 1}), "main", given)
	if diff := cmp.Diff(entriesOf(&once), entriesOf(&again)); diff != "" {
		t.Fatalf("entries (-once +again):\n%s", diff)
	}
	if len(once.pushes) != 2 || len(again.pushes) != len(given)-1 { // the event is not pushed
		t.Fatalf("%d and %d pushes", len(once.pushes), len(again.pushes))
	}
}

func TestBatches(t *testing.T) {
	var fs []correlate.Finding
	for i := range 5000 {
		r := restoreOf(fmt.Sprint("192.0.2.", i))
		r.Host = fmt.Sprint("host", i%7)
		fs = append(fs, correlate.Finding{Kind: correlate.FindingRestore, Time: r.Time.Add(time.Duration(-i) * time.Second), Host: r.Host, Jail: r.Jail, ID: r.ID, Restore: r})
	}
	var r recorder
	publish(t, NewLokiSink(&r, LokiOptions{}), "main", fs)
	n, newest := 0, map[string]time.Time{}
	for _, p := range r.pushes {
		size, seen := 0, map[string]bool{}
		for _, s := range p {
			host := s.Labels["host"]
			if seen[host] {
				t.Fatalf("%s has two streams in one push", host)
			}
			seen[host] = true
			for _, e := range s.Entries {
				size += entrySize(&e)
				if e.Time.Before(newest[host]) {
					t.Fatalf("%s is not in time order", host)
				}
				newest[host] = e.Time
				n++
			}
		}
		if size > DefaultBatchSize {
			t.Fatalf("a push of %d bytes", size)
		}
	}
	if n != len(fs) || len(r.pushes) < 2 {
		t.Fatalf("%d of %d findings in %d pushes", n, len(fs), len(r.pushes))
	}
}

// What an open ban says does not depend on when it is said.
func TestOpenBanIsStable(t *testing.T) {
	f := findings()[11]
	later := *f.Ban
	later.Banned, later.Gap = time.Minute, time.Second
	var r recorder
	sink := NewLokiSink(&r, LokiOptions{})
	publish(t, sink, "main", []correlate.Finding{f})
	f.Ban = &later
	publish(t, sink, "main", []correlate.Finding{f})
	if diff := cmp.Diff(r.pushes[0], r.pushes[1]); diff != "" {
		t.Fatalf("pushes (-first +second):\n%s", diff)
	}
}

// An id can be anything; the line stays one line of logfmt, and the id comes
// back as it was but for bytes that are no UTF-8.
func TestHostileFindings(t *testing.T) {
	for _, id := range append(slices.Clone(hostile), "finding=ban", `\`, `"`, "\u2028\x00\x7f") {
		r := restoreOf(id)
		var rec recorder
		publish(t, NewLokiSink(&rec, LokiOptions{}), "main", []correlate.Finding{{Kind: correlate.FindingRestore, Time: r.Time, Host: r.Host, Jail: r.Jail, ID: id, Restore: r}})
		line := rec.pushes[0][0].Entries[0].Line
		if i := strings.IndexFunc(line, unprintable); i >= 0 {
			t.Fatalf("%q is not harmless", line)
		}
		fields := parseLogfmt(t, line)
		if got := slices.Collect(func(yield func(string) bool) {
			for _, f := range fields {
				if !yield(f[0]) {
					return
				}
			}
		}); !slices.Equal(got, append([]string{"finding"}, Columns(KindRestores)...)) {
			t.Fatalf("fields of %q: %v", line, got)
		}
		if fields[4][1] != valid(id) {
			t.Fatalf("id %q came back as %q", id, fields[4][1])
		}
	}
}

// parseLogfmt reads a line as Loki does: quoted values are JSON strings.
func parseLogfmt(t *testing.T, line string) (fields [][2]string) {
	t.Helper()
	for line != "" {
		name, rest, ok := strings.Cut(line, "=")
		if !ok {
			t.Fatalf("no value in %q", line)
		}
		value := ""
		if strings.HasPrefix(rest, `"`) {
			dec := json.NewDecoder(strings.NewReader(rest))
			if err := dec.Decode(&value); err != nil {
				t.Fatalf("value of %s: %v", name, err)
			}
			rest = strings.TrimPrefix(rest[dec.InputOffset():], " ")
		} else {
			value, rest, _ = strings.Cut(rest, " ")
		}
		fields, line = append(fields, [2]string{name, value}), rest
	}
	return fields
}

func TestLongIDsDoNotGetRefused(t *testing.T) {
	r := restoreOf(strings.Repeat("ü", 100000))
	var rec recorder
	publish(t, NewLokiSink(&rec, LokiOptions{}), "main", []correlate.Finding{{Kind: correlate.FindingRestore, Time: r.Time, Host: r.Host, ID: r.ID, Restore: r}})
	for _, l := range rec.pushes[0][0].Entries[0].Metadata {
		if len(l.Value) > maxMetadata || strings.ContainsRune(l.Value, '\uFFFD') {
			t.Fatalf("%s has %d bytes, cut well: %v", l.Name, len(l.Value), !strings.ContainsRune(l.Value, '\uFFFD'))
		}
	}
}

func TestFindingID(t *testing.T) {
	f := findings()[4]
	id := FindingID("main", &f)
	if want := "0e6111d22f0acbb2a6c81517171d7a64"; id != want {
		t.Fatalf("id %s, want %s as ever: what was pushed bears it", id, want)
	}
	ids := map[string]bool{id: true}
	for _, change := range []func(*correlate.Finding){
		func(f *correlate.Finding) { f.Kind = correlate.FindingGap }, func(f *correlate.Finding) { f.Host = "web" }, func(f *correlate.Finding) { f.Jail = "ssh" },
		func(f *correlate.Finding) { f.ID += "1" }, func(f *correlate.Finding) { f.Time = f.Time.Add(time.Millisecond) },
		func(f *correlate.Finding) { f.Host, f.Jail = "web1s", "shd" },
	} {
		other := f
		change(&other)
		ids[FindingID("main", &other)] = true
	}
	ids[FindingID("branch", &f)] = true
	if len(ids) != 8 {
		t.Fatalf("%d ids of 8 findings", len(ids))
	}
	f.Restore, f.Seq, f.Time = restoreOf("x"), 99, f.Time.In(time.FixedZone("", 3600))
	if got := FindingID("main", &f); got != id {
		t.Fatalf("the row, its number and the zone changed the id")
	}
}

func TestSourceInFindings(t *testing.T) {
	var r recorder
	publish(t, NewLokiSink(&r, LokiOptions{NameSource: true}), "dc 1", findings()[8:9])
	e := r.pushes[0][0].Entries[0]
	if !strings.HasPrefix(e.Line, `finding=lost_ban source="dc 1" host=web1 jail=sshd id=192.0.2.4 `) {
		t.Fatalf("line %s", e.Line)
	}
	if !slices.Contains(e.Metadata, loki.Label{Name: "source", Value: "dc 1"}) {
		t.Fatalf("metadata %v", e.Metadata)
	}
}

func TestSelfCountsSinks(t *testing.T) {
	self := NewSelf(prometheus.NewPedanticRegistry())
	o := self.Count(LokiOptions{Name: "central"})
	o.Batch(BatchPartial)
	o.Dropped(DroppedTooOld, 5)
	if n := testutil.CollectAndCount(self.SinkBatches); n != len(BatchResults) {
		t.Fatalf("%d results, want each from 0", n)
	}
	if got := testutil.ToFloat64(self.SinkDropped.WithLabelValues("central", DroppedTooOld)); got != 5 {
		t.Fatalf("dropped %v", got)
	}
	if got := NewLokiSink(&recorder{}, o).Name(); got != "central" {
		t.Fatalf("name %q", got)
	}
}

// The ranking has a stream of its own without a host, in time order, cut by
// size; its bytes depend neither on the order nor on what is banned now.
func TestRankingFindings(t *testing.T) {
	var fs []offender.Finding
	for _, o := range offenders() {
		fs = append(fs, offender.Finding{At: at("22:00:00.000"), Row: o})
	}
	reached := offenders()[0]
	reached.Rank = 0
	fs = append(fs, offender.Finding{At: at("21:00:00.250"), Reached: offender.Persistent, Row: reached})
	var r recorder
	o := LokiOptions{Labels: map[string]string{"env": "prod", "host": "mine"}, NameSource: true}
	tell := func(to *recorder) {
		s := NewLokiSink(to, o)
		s.Publish(context.Background(), "main", at("23:00:00.000"), nil, fs)
		if err := s.round(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	tell(&r)
	golden(t, "ranking.txt", r.String())

	var again recorder
	slices.Reverse(fs)
	for i := range fs {
		fs[i].Row.BannedNow, fs[i].Row.BannedWhere = !fs[i].Row.BannedNow, nil
	}
	o.BatchSize = 1024
	tell(&again)
	joined := strings.ReplaceAll(again.String(), "== push ==\nmap[env:prod job:"+Job+"]\n", "")
	if want := strings.ReplaceAll(r.String(), "== push ==\nmap[env:prod job:"+Job+"]\n", ""); joined != want || len(again.pushes) < 4 {
		t.Errorf("%d pushes: %s", len(again.pushes), cmp.Diff(want, joined))
	}
}
