//go:build !linux

package lab

import "syscall"

// procAttr gives a server a process group of its own, so that Ctrl-C reaches
// the caller alone, which then stops the servers in order.
func procAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
