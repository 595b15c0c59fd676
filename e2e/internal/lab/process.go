package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	pollInterval = 25 * time.Millisecond
	stopPatience = 15 * time.Second
	portAttempts = 5
)

// Command is a server to start.
type Command struct {
	Name  string // for messages, and of the log file
	Path  string
	Args  []string
	Env   []string          // added to this process' own
	Files map[string][]byte // written into the working directory first
	Dir   string            // working directory and place of the log; a temporary one, removed by Stop, when empty
	URL   string            // base URL it serves
	Ready string            // path that answers 200 once it is ready; without it Start does not wait
}

// Server is a running server. Stop ends it.
type Server struct {
	URL string // base URL, without a slash at the end
	Dir string // its working directory

	name    string
	logPath string
	temp    bool
	cmd     *exec.Cmd
	exited  chan struct{} // closed once the process has ended
	waitErr error         // valid after that
	once    sync.Once
}

// Start starts a server and waits until it is ready, ctx ends or the process
// does, in which case the error holds the end of its log. The server outlives
// ctx: Stop ends it.
func Start(ctx context.Context, c Command) (*Server, error) {
	s := &Server{URL: c.URL, Dir: c.Dir, name: c.Name, exited: make(chan struct{})}
	if s.Dir == "" {
		dir, err := os.MkdirTemp("", "fail2ban-loki-exporter-"+c.Name+"-")
		if err != nil {
			return nil, err
		}
		s.Dir, s.temp = dir, true
	}
	s.logPath = filepath.Join(s.Dir, c.Name+".log")
	if err := s.launch(c); err != nil {
		s.removeTemp()
		return nil, fmt.Errorf("lab: starting %s: %w", c.Name, err)
	}
	if c.Ready == "" {
		return s, nil
	}
	if err := s.WaitReady(ctx, c.Ready); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

func (s *Server) launch(c Command) error {
	for name, content := range c.Files {
		if err := os.WriteFile(filepath.Join(s.Dir, name), content, 0o600); err != nil {
			return err
		}
	}
	log, err := os.Create(s.logPath)
	if err != nil {
		return err
	}
	defer log.Close()
	s.cmd = exec.Command(c.Path, c.Args...)
	s.cmd.Dir = s.Dir
	s.cmd.Env = append(os.Environ(), c.Env...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = procAttr()
	if err := s.cmd.Start(); err != nil {
		return err
	}
	go func() {
		s.waitErr = s.cmd.Wait()
		close(s.exited)
	}()
	return nil
}

// WaitReady waits until path answers 200. It ends early, with the log's end,
// when the process does: a server with a bad configuration exits at once.
func (s *Server) WaitReady(ctx context.Context, path string) error {
	return s.Poll(ctx, "is not ready", func() error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		_, err := Get(ctx, s.URL+path)
		return err
	})
}

// Poll repeats try until it succeeds. It gives up, with the reason of the last
// try and the end of the server's log, when ctx ends or the server does.
func (s *Server) Poll(ctx context.Context, what string, try func() error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	polled := make(chan struct{})
	defer close(polled)
	go func() {
		select {
		case <-s.exited:
			cancel(fmt.Errorf("ended by itself (%w)", s.waitErr))
		case <-polled:
		}
	}()
	if err := Poll(ctx, try); err != nil {
		return fmt.Errorf("lab: %s %s: %w; end of its log:\n%s", s.name, what, err, tail(s.Log()))
	}
	return nil
}

// Poll repeats try until it succeeds or ctx ends; the error then holds the
// reasons of both.
func Poll(ctx context.Context, try func() error) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	var last error
	for {
		err := try()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil && last != nil {
			err = last // not that the last try was broken off
		}
		last = err
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (%w)", err, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// Stop ends the server by its process id, politely first, waits for its end
// and removes what it had in a temporary folder. Further calls do nothing.
func (s *Server) Stop() {
	s.once.Do(func() {
		s.signal(syscall.SIGTERM)
		select {
		case <-s.exited:
		case <-time.After(stopPatience):
			s.signal(syscall.SIGKILL)
			<-s.exited
		}
		s.removeTemp()
	})
}

// Kill ends the server without giving it a moment. Stop is still needed.
func (s *Server) Kill() {
	s.signal(syscall.SIGKILL)
	<-s.exited
}

// Signal sends a signal.
func (s *Server) Signal(sig syscall.Signal) { s.signal(sig) }

// signal is nothing to a process that has ended.
func (s *Server) signal(sig syscall.Signal) {
	if err := s.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		fmt.Fprintf(os.Stderr, "lab: %s, process %d: %v\n", s.name, s.cmd.Process.Pid, err)
	}
}

// Exited is closed once the process has ended.
func (s *Server) Exited() <-chan struct{} { return s.exited }

// ExitCode waits for the process' end and returns its code.
func (s *Server) ExitCode() int {
	<-s.exited
	return s.cmd.ProcessState.ExitCode()
}

// Log returns what the server has written to its standard output and error.
func (s *Server) Log() string {
	b, err := os.ReadFile(s.logPath)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func (s *Server) removeTemp() {
	if s.temp {
		os.RemoveAll(s.Dir)
	}
}

// FreeAddress returns a loopback address whose port nobody listened on a
// moment ago.
func FreeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// startOnFreePorts starts a server on n free loopback addresses, and again on
// others when somebody else was faster to take one.
func startOnFreePorts(n int, start func(addrs []string) (*Server, error)) (*Server, error) {
	for attempt := 1; ; attempt++ {
		addrs := make([]string, n)
		for i := range addrs {
			addr, err := FreeAddress()
			if err != nil {
				return nil, err
			}
			addrs[i] = addr
		}
		s, err := start(addrs)
		if err == nil || attempt == portAttempts || !strings.Contains(err.Error(), "address already in use") {
			return s, err
		}
	}
}

// Serve starts a command on one free loopback address: build gets the address
// and returns the command.
func Serve(ctx context.Context, build func(addr string) Command) (*Server, error) {
	return startOnFreePorts(1, func(addrs []string) (*Server, error) {
		return Start(ctx, build(addrs[0]))
	})
}
