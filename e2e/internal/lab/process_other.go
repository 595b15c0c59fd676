//go:build !linux

package lab

import (
	"errors"
	"syscall"
	"time"
)

// procAttr gives a server a process group of its own, so that Ctrl-C reaches
// the caller alone, which then stops the servers in order.
func procAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}

// CPU is how much processor time the server has used.
func (s *Server) CPU() (time.Duration, error) {
	return 0, errors.New("lab: processor time is known on Linux alone")
}
