// The daemon that people write today: Go, JSON, and the system calls of github.com/vishvananda/netns.
//
// usage: daemon PATH
//
// It decodes the same call as nsbroker, opens the namespaces by their paths below /proc, as netns.GetFromPid does, reads their
// identity, as netns.NsHandle.UniqueId does, replies with them and closes them.  It has no policy, no records and no limits, and
// does not pin the process.  It needs the standard library alone.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"syscall"
)

type call struct {
	Method     string `json:"method"`
	Parameters struct {
		Target struct {
			Pid int `json:"pid"`
		} `json:"target"`
		Types []string `json:"types"`
	} `json:"parameters"`
}

type namespace struct {
	Type           string `json:"type"`
	Device         uint64 `json:"device"`
	Inode          uint64 `json:"inode"`
	FileDescriptor int    `json:"namespaceFileDescriptor"`
}

type reply struct {
	Parameters struct {
		Namespaces []namespace `json:"namespaces"`
	} `json:"parameters"`
}

// open returns the reply and the descriptors (the caller's) that go with it, also when it returns an error.
func open(text []byte) ([]byte, []int, error) {
	var asked call
	var answer reply
	var fds []int
	if err := json.Unmarshal(text, &asked); err != nil {
		return nil, fds, err
	}
	for index, kind := range asked.Parameters.Types {
		path := fmt.Sprintf("/proc/%d/ns/%s", asked.Parameters.Target.Pid, kind)
		fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
		if err != nil {
			return nil, fds, err
		}
		fds = append(fds, fd)
		var facts syscall.Stat_t
		if err := syscall.Fstat(fd, &facts); err != nil {
			return nil, fds, err
		}
		answer.Parameters.Namespaces = append(answer.Parameters.Namespaces,
			namespace{kind, uint64(facts.Dev), facts.Ino, index})
	}
	data, err := json.Marshal(answer)
	return append(data, 0), fds, err
}

func serve(conn *net.UnixConn) {
	defer conn.Close()
	reader := bufio.NewReader(conn)
	for {
		text, err := reader.ReadBytes(0)
		if err != nil {
			return
		}
		data, fds, err := open(text[:len(text)-1])
		if err == nil {
			_, _, err = conn.WriteMsgUnix(data, syscall.UnixRights(fds...), nil)
		}
		for _, fd := range fds {
			syscall.Close(fd)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return
		}
	}
}

func main() {
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: os.Args[1], Net: "unix"})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for {
		conn, err := listener.AcceptUnix()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		go serve(conn)
	}
}
