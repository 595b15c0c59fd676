package pipeline

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"fail2ban-loki-exporter/exporter/internal/correlate"
	"fail2ban-loki-exporter/exporter/internal/offender"
)

// Why a state is not gone on from.
var (
	// ErrNoState says that there is none, as at the first start.
	ErrNoState = errors.New("there is none")
	// ErrForeignState says that it was made with another configuration, or by
	// another version, so that it would answer other questions.
	ErrForeignState = errors.New("it was made with other settings or by another version")
	// ErrDamagedState says that it is cut, damaged, or not a state at all.
	ErrDamagedState = errors.New("it is damaged")
)

// What became of a save: the values of `result` on
// fail2ban_exporter_state_saves_total.
const (
	SaveOK      = "ok"
	SaveFailed  = "failed"
	SaveSkipped = "skipped" // the last one was still being written
)

// stateMagic begins a state file; its last byte is the version of the layout.
const stateMagic = "fail2ban-loki-exporter state\x00\x01"

// Store keeps in a file what a source has come to, so that a start need not
// read the past again. It is a cache: Loki is the truth, and who deletes the
// file loses the time of a back-fill and nothing else.
type Store struct {
	// Path of the file. Next to it another is written and then takes its place,
	// so that a kill at any moment leaves a whole one.
	Path string
	// Fingerprint names all settings that the state depends on.
	Fingerprint string
	// Every is how often it is saved.
	Every time.Duration
	// Saved, where set, is told what became of each save, and how long the
	// reading of the log stood still for it.
	Saved func(result string, stood time.Duration, err error)

	last    time.Time
	writing chan struct{} // holds one while a save is written beside the loop
}

// Saved is what a follower goes on from.
type Saved struct {
	Feed   *Feed
	Cursor time.Time // everything before it has been read, and what was found has been taken
	From   time.Time // where the history begins
	Counts map[string]uint64
	// Restores are the newest.
	Restores []correlate.Restore
	// Offsets are what counters were shown beyond what is known.
	Offsets correlate.Report
}

// stateHead is the beginning of a state file.
type stateHead struct {
	Fingerprint  string
	Cursor, From time.Time
	Hour         time.Time // up to which the ranking was told
	Counts       map[string]uint64
	Restores     []correlate.Restore // the newest, for the API
	Offsets      correlate.Report
}

// Load reads the state. Its errors say why there is none to go on from. The
// board of the feed's options takes over what the ranking knew.
func (s *Store) Load(o FeedOptions, ranking offender.Options) (*Saved, error) {
	text, err := os.ReadFile(s.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("state %s: %w", s.Path, ErrNoState)
	} else if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	saved, err := LoadState(text, s.Fingerprint, o, ranking)
	if err != nil {
		return nil, fmt.Errorf("state %s: %w", s.Path, err)
	}
	return saved, nil
}

// LoadState reads a state as Load does, from memory.
func LoadState(text []byte, fingerprint string, o FeedOptions, ranking offender.Options) (*Saved, error) {
	if len(text) < len(stateMagic)+crc32.Size || string(text[:len(stateMagic)-1]) != stateMagic[:len(stateMagic)-1] {
		return nil, ErrDamagedState
	}
	body, sum := text[:len(text)-crc32.Size], binary.BigEndian.Uint32(text[len(text)-crc32.Size:])
	if crc32.Checksum(body, castagnoli) != sum {
		return nil, ErrDamagedState
	}
	if body[len(stateMagic)-1] != stateMagic[len(stateMagic)-1] {
		return nil, ErrForeignState
	}
	p := &parts{body[len(stateMagic):]}
	var head stateHead
	if err := json.Unmarshal(p.next(), &head); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamagedState, err)
	}
	if head.Fingerprint != fingerprint {
		return nil, ErrForeignState
	}
	feed, err := loadFeed(p, o)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamagedState, err)
	}
	if o.Board != nil {
		board, err := offender.Load(bytes.NewReader(p.next()), ranking)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrDamagedState, err)
		}
		o.Board.takeOver(board, head.Hour)
	}
	return &Saved{Feed: feed, Cursor: head.Cursor, From: head.From, Counts: head.Counts, Offsets: head.Offsets, Restores: head.Restores}, nil
}

// parts are pieces with their lengths before them.
type parts struct{ rest []byte }

func (p *parts) next() []byte {
	n, size := binary.Uvarint(p.rest)
	if size <= 0 || n > uint64(len(p.rest)-size) {
		p.rest = nil
		return nil
	}
	part := p.rest[size : size+int(n)]
	p.rest = p.rest[size+int(n):]
	return part
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// due tells whether it is time to save.
func (s *Store) due(now time.Time) bool { return now.Sub(s.last) >= s.Every }

// save takes the state as it is now and has it written beside the loop, or
// waits for that too. What is still being written is not overtaken.
func (s *Store) save(head stateHead, feed *Feed, wait bool) {
	began := time.Now()
	if s.writing == nil {
		s.writing = make(chan struct{}, 1)
	}
	if wait {
		s.writing <- struct{}{}
	} else {
		select {
		case s.writing <- struct{}{}:
		default:
			s.tell(SaveSkipped, 0, nil)
			return
		}
	}
	s.last = began
	head.Fingerprint = s.Fingerprint
	write, err := take(head, feed)
	stood := time.Since(began)
	if err != nil {
		<-s.writing
		s.tell(SaveFailed, stood, err)
		return
	}
	finish := func() {
		defer func() { <-s.writing }()
		if err := replaceFile(s.Path, write); err != nil {
			s.tell(SaveFailed, stood, err)
			return
		}
		s.tell(SaveOK, stood, nil)
	}
	if wait {
		finish()
		return
	}
	go finish()
}

// wait ends when nothing is being written any more.
func (s *Store) wait() {
	if s.writing != nil {
		s.writing <- struct{}{}
		<-s.writing
	}
}

func (s *Store) tell(result string, stood time.Duration, err error) {
	if s.Saved != nil {
		s.Saved(result, stood, err)
	}
}

// take freezes the state in memory: the correlation is written at once, the
// ranking is copied and written later. Meanwhile the loop stands still.
func take(head stateHead, feed *Feed) (func(io.Writer) error, error) {
	text, err := json.Marshal(head)
	if err != nil {
		return nil, err
	}
	var correlation func(io.Writer) error
	var board *offender.Board
	var g errgroup.Group
	g.Go(func() (err error) {
		correlation, err = feed.freeze()
		return err
	})
	if feed.o.Board != nil {
		board = feed.o.Board.freezeOwn()
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return func(out io.Writer) error {
		sum := crc32.New(castagnoli)
		w := io.MultiWriter(out, sum)
		if _, err := io.WriteString(w, stateMagic); err != nil {
			return err
		}
		if err := writePart(w, text); err != nil {
			return err
		}
		if err := correlation(w); err != nil {
			return err
		}
		if board != nil {
			var ranking chunks
			if err := board.Snapshot(&ranking); err != nil {
				return err
			}
			if err := writePart(w, ranking...); err != nil {
				return err
			}
		}
		_, err := out.Write(sum.Sum(nil))
		return err
	}, nil
}

func writePart(w io.Writer, text ...[]byte) error {
	n := 0
	for _, t := range text {
		n += len(t)
	}
	if _, err := w.Write(binary.AppendUvarint(nil, uint64(n))); err != nil {
		return err
	}
	for _, t := range text {
		if _, err := w.Write(t); err != nil {
			return err
		}
	}
	return nil
}

// chunks is a buffer that grows without being copied: a million keys take 80 MB.
type chunks [][]byte

const chunkSize = 4 << 20

func (c *chunks) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if k := len(*c); k == 0 || len((*c)[k-1]) == cap((*c)[k-1]) {
			*c = append(*c, make([]byte, 0, chunkSize))
		}
		last := &(*c)[len(*c)-1]
		part := p[:min(len(p), cap(*last)-len(*last))]
		*last = append(*last, part...)
		p = p[len(part):]
	}
	return n, nil
}

// replaceFile writes a file so that at any moment the old or the new one is
// there, whole, and readable by nobody else: it names who attacked.
func replaceFile(path string, write func(io.Writer) error) (err error) {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	w := bufio.NewWriterSize(f, 1<<20)
	if err := write(w); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes a rename outlast a crash of the machine.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// hour is up to when the ranking has been told.
func (f *Feed) hour() time.Time {
	if f.o.Board == nil {
		return time.Time{}
	}
	return f.o.Board.hour
}
