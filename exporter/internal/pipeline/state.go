package pipeline

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"fail2ban-loki-exporter/exporter/internal/correlate"
)

// feedState is what a feed has learnt beside the correlation.
type feedState struct {
	Done     time.Time
	Parsers  []parserState
	Coverage map[string]Coverage
	Unnamed  []string
	Shards   int // of hosts, written apart

	Fine, Coarse *tallies
}

// parserState is what a stream's parser has learnt: zone, form, jails.
type parserState struct {
	Host, Stream string
	State        []byte
}

var errFeedState = errors.New("no state of a feed")

// Snapshot writes all that Load needs to go on from here: between two windows,
// and after the findings were taken.
func (f *Feed) Snapshot(w io.Writer) error {
	write, err := f.freeze()
	if err != nil {
		return err
	}
	return write(w)
}

// freeze takes the state as it is now, to be written while the feed goes on.
func (f *Feed) freeze() (func(io.Writer) error, error) {
	if len(f.group) > 0 || f.engine.Pending() > 0 {
		return nil, errors.New("snapshot in the midst of a window")
	}
	shards := f.shards()
	s := feedState{Done: f.done, Coverage: map[string]Coverage{}, Unnamed: slices.Sorted(maps.Keys(f.unnamed)), Shards: len(shards), Fine: f.fine, Coarse: f.coarse}
	for key, p := range f.parsers {
		s.Parsers = append(s.Parsers, parserState{key.host, key.stream, p.parser.AppendState(nil)})
	}
	slices.SortFunc(s.Parsers, func(a, b parserState) int { return streamKey{a.Host, a.Stream}.compare(streamKey{b.Host, b.Stream}) })
	for host, c := range f.coverage {
		s.Coverage[host] = *c
	}
	text, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	written := make([]chunks, len(shards))
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, hosts := range shards {
		g.Go(func() error { return f.engine.Part(hosts).Dump(&written[i]) })
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return func(w io.Writer) error {
		if err := writePart(w, text); err != nil {
			return err
		}
		for _, part := range written {
			if err := writePart(w, part...); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

// keysInShard is about how many keys are worth writing apart.
const keysInShard = 50_000

// shards are the hosts in heaps of about equal size, which are written at once:
// hosts share nothing.
func (f *Feed) shards() (out [][]string) {
	keys := 0
	for _, host := range f.engine.Hosts() {
		if len(out) == 0 || keys > keysInShard {
			out, keys = append(out, nil), 0
		}
		last := &out[len(out)-1]
		*last = append(*last, host)
		keys += f.engine.HostKeys(host)
	}
	return out
}

// LoadFeed makes a feed that goes on where the one that wrote a snapshot was.
func LoadFeed(r io.Reader, o FeedOptions) (*Feed, error) {
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	return loadFeed(&parts{text}, o)
}

func loadFeed(p *parts, o FeedOptions) (*Feed, error) {
	f := NewFeed(o)
	var s feedState
	if err := json.Unmarshal(p.next(), &s); err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	f.done = s.Done
	if f.fine != nil && s.Fine != nil && s.Coarse != nil {
		f.fine, f.coarse = s.Fine, s.Coarse
	}
	for _, l := range s.Parsers {
		if err := f.lane(streamKey{l.Host, l.Stream}).parser.LoadState(l.State); err != nil {
			return nil, err
		}
	}
	for host, c := range s.Coverage {
		f.coverage[host] = &c
	}
	for _, stream := range s.Unnamed {
		f.unnamed[stream] = true
	}
	return f, f.loadShards(p, s.Shards)
}

func (f *Feed) loadShards(p *parts, n int) error {
	if n < 0 || n > len(p.rest) {
		return fmt.Errorf("state: %w", errFeedState)
	}
	loaded := make([]*correlate.Engine, n)
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range n {
		part := p.next()
		g.Go(func() (err error) {
			loaded[i], err = correlate.Load(bytes.NewReader(part), f.o.Correlate)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, e := range loaded {
		f.engine.Adopt(e)
	}
	return nil
}
