package loki

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"

	"github.com/grafana/loki/v3/pkg/logproto"
	"google.golang.org/protobuf/encoding/protowire"
)

// fakeStream is a stream of an answer.
type fakeStream struct {
	labels  map[string]string
	entries []Entry
}

// writeJSON writes an answer as Loki does.
func writeJSON(streams []fakeStream) []byte {
	result := []any{}
	for _, s := range streams {
		var values []any
		for _, e := range s.entries {
			extra := map[string]any{}
			if len(e.Metadata) > 0 {
				extra["structuredMetadata"] = e.Metadata
			}
			values = append(values, []any{strconv.FormatInt(e.Time.UnixNano(), 10), e.Line, extra})
		}
		result = append(result, map[string]any{"stream": s.labels, "values": values})
	}
	b, err := json.Marshal(map[string]any{"status": "success", "data": map[string]any{"resultType": "streams", "result": result, "stats": map[string]any{}}})
	if err != nil {
		panic(err)
	}
	return b
}

// writeProto writes an answer with Loki's own type of a stream.
func writeProto(streams []fakeStream) []byte {
	data := field(nil, 1, []byte("streams"))
	for _, s := range streams {
		st := logproto.Stream{Labels: keyOf(s.labels), Hash: 7}
		for _, e := range s.entries {
			entry := logproto.Entry{Timestamp: e.Time, Line: e.Line}
			for _, name := range slices.Sorted(maps.Keys(e.Metadata)) {
				entry.StructuredMetadata = append(entry.StructuredMetadata, logproto.LabelAdapter{Name: name, Value: e.Metadata[name]})
			}
			st.Entries = append(st.Entries, entry)
		}
		b, err := st.Marshal()
		if err != nil {
			panic(err)
		}
		data = field(data, 2, b)
	}
	response := field(nil, 1, []byte("success"))
	response = field(response, 2, data)
	response = protowire.AppendTag(response, 6, protowire.VarintType) // limit
	response = protowire.AppendVarint(response, 5000)
	response = field(response, 8, []byte{1, 2, 3}) // statistics
	return field(nil, 6, response)
}

// field appends a field of bytes.
func field(b []byte, num protowire.Number, val []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), val)
}
