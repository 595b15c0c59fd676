package loki

import (
	"bytes"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/grafana/loki/v3/pkg/logproto"
	"google.golang.org/protobuf/encoding/protowire"
	"pgregory.net/rapid"
)

// FuzzProtobuf: no answer makes the decoder panic; what it takes it takes
// whole, and Loki's own types read the same from it.
func FuzzProtobuf(f *testing.F) {
	_, page := pageOf(4, 2)
	f.Add(page)
	f.Add(writeProto(nil))
	f.Add([]byte{})
	f.Add(field(nil, 5, []byte("x")))
	f.Add(page[:len(page)-3])
	f.Fuzz(func(t *testing.T, b []byte) {
		d := &decoder{streams: &streamTable{}}
		if err := d.protobuf(b); err != nil {
			return
		}
		want, ok := asLoki(b)
		if !ok {
			return // stricter than we are
		}
		if diff := cmp.Diff(want, d.entries); diff != "" {
			t.Fatal(diff)
		}
		merged(d.entries)
	})
}

// asLoki reads an answer with Loki's own type of a stream; only the messages
// around it are walked over.
func asLoki(b []byte) (out []Entry, ok bool) {
	inside := [][]byte{b}
	for _, num := range []protowire.Number{6, 2, 2} {
		var next [][]byte
		for _, m := range inside {
			for len(m) > 0 {
				n, typ, l := protowire.ConsumeTag(m)
				if l < 0 {
					return nil, false
				}
				v := protowire.ConsumeFieldValue(n, typ, m[l:])
				if v < 0 {
					return nil, false
				}
				if n == num && typ == protowire.BytesType {
					val, _ := protowire.ConsumeBytes(m[l:])
					next = append(next, val)
				}
				m = m[l+v:]
			}
		}
		inside = next
	}
	streams := &streamTable{}
	for _, m := range inside {
		var st logproto.Stream
		if err := st.Unmarshal(m); err != nil {
			return nil, false
		}
		own, err := streams.ofText([]byte(st.Labels))
		if err != nil {
			return nil, false
		}
		for _, e := range st.Entries {
			entry := Entry{Time: e.Timestamp.UTC(), Line: validText([]byte(e.Line)), Stream: own}
			if len(e.StructuredMetadata) > 0 {
				entry.Metadata = map[string]string{}
			}
			for _, l := range e.StructuredMetadata {
				entry.Metadata[validText([]byte(l.Name))] = validText([]byte(l.Value))
			}
			out = append(out, entry)
		}
	}
	return out, true
}

// Both forms of an answer give the same entries.
func TestProtobufAsJSON(t *testing.T) {
	text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", `a"b`, `\`, "\x00\u2028<>&", "é", "\xff\xfe", "a\xc3"}))
	rapid.Check(t, func(t *rapid.T) {
		var streams []fakeStream
		for range rapid.IntRange(0, 4).Draw(t, "streams") {
			st := fakeStream{labels: map[string]string{}}
			for range rapid.IntRange(0, 3).Draw(t, "labels") {
				st.labels[rapid.StringMatching(`[a-z_]{1,3}`).Draw(t, "name")] = rapid.OneOf(rapid.String(), rapid.Just(`", x="`)).Draw(t, "value")
			}
			for range rapid.IntRange(0, 5).Draw(t, "entries") {
				e := Entry{Time: time.Unix(0, rapid.Int64Range(0, 5).Draw(t, "time")), Line: text.Draw(t, "line")}
				for range rapid.IntRange(0, 2).Draw(t, "pairs") {
					if e.Metadata == nil {
						e.Metadata = map[string]string{}
					}
					e.Metadata[rapid.String().Draw(t, "name")] = rapid.String().Draw(t, "value")
				}
				st.entries = append(st.entries, e)
			}
			if len(st.entries) > 0 {
				streams = append(streams, st)
			}
		}
		j, p := &decoder{streams: &streamTable{}}, &decoder{streams: &streamTable{}}
		if err := p.protobuf(writeProto(streams)); err != nil {
			t.Fatal(err)
		}
		if err := j.values(nil, nil); err != nil {
			t.Fatal(err)
		}
		if err := j.json(bytes.NewReader(writeJSON(streams))); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(merged(j.entries), merged(p.entries)); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestParseLabels(t *testing.T) {
	for _, labels := range []map[string]string{{}, {"a": ""}, {"a": `b"c\`, "d": "}, e=\n"}, {"é.x": "y"}} {
		text := keyOf(labels)
		if len(labels) > 0 && slices.Collect(maps.Keys(labels))[0] == "é.x" {
			text = `{"é.x"="y"}` // as Prometheus writes names beyond letters
		}
		if got, err := parseLabels(text); err != nil || !maps.Equal(got, labels) {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{``, `{`, `a="b"`, `{a="b"`, `{a="b"} x`, `{a=b}`, "{a=`b`}", `{a="b" c="d"}`, `{="b"}`, `{a}`, `{a="b",}`, `{,}`} {
		if got, err := parseLabels(text); err == nil {
			t.Errorf("%s gives %v", text, got)
		}
	}
}
