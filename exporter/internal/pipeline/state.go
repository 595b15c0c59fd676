package pipeline

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"fail2ban-loki-exporter/exporter/internal/correlate"
)

// feedState is what a feed has learnt beside the correlation.
type feedState struct {
	Done     time.Time
	Parsers  []parserState
	Coverage map[string]Coverage
	Unnamed  []string
}

// parserState is what a stream's parser has learnt: zone, form, jails.
type parserState struct {
	Host, Stream string
	State        []byte
}

// maxFeedState bounds what is read of a state that may be damaged.
const maxFeedState = 1 << 28

var errFeedState = errors.New("no state of a feed")

// Snapshot writes all that Load needs to go on from here: between two windows,
// and after the findings were taken.
func (f *Feed) Snapshot(w io.Writer) error {
	if len(f.group) > 0 {
		return errors.New("snapshot in the midst of a window")
	}
	s := feedState{Done: f.done, Coverage: map[string]Coverage{}, Unnamed: slices.Sorted(maps.Keys(f.unnamed))}
	for key, p := range f.parsers {
		s.Parsers = append(s.Parsers, parserState{key.host, key.stream, p.AppendState(nil)})
	}
	slices.SortFunc(s.Parsers, func(a, b parserState) int { return streamKey{a.Host, a.Stream}.compare(streamKey{b.Host, b.Stream}) })
	for host, c := range f.coverage {
		s.Coverage[host] = *c
	}
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if _, err := w.Write(binary.BigEndian.AppendUint32(nil, uint32(len(text)))); err != nil {
		return err
	}
	if _, err := w.Write(text); err != nil {
		return err
	}
	return f.engine.Snapshot(w)
}

// LoadFeed makes a feed that goes on where the one that wrote a snapshot was.
func LoadFeed(r io.Reader, o FeedOptions) (*Feed, error) {
	f := NewFeed(o)
	br := bufio.NewReader(r)
	var size uint32
	if err := binary.Read(br, binary.BigEndian, &size); err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	if size > maxFeedState {
		return nil, fmt.Errorf("state: %w", errFeedState)
	}
	var s feedState
	text, err := io.ReadAll(io.LimitReader(br, int64(size)))
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	if f.engine, err = correlate.Load(br, f.o.Correlate); err != nil {
		return nil, err
	}
	f.done = s.Done
	for _, p := range s.Parsers {
		if err := f.parser(streamKey{p.Host, p.Stream}).LoadState(p.State); err != nil {
			return nil, err
		}
	}
	for host, c := range s.Coverage {
		f.coverage[host] = &c
	}
	for _, stream := range s.Unnamed {
		f.unnamed[stream] = true
	}
	return f, nil
}
