// Fetch a page from the loopback of a container, without any privilege, and with the standard library only.
//
//	go run examples/fetch.go web 8080 /metrics
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
)

type object = map[string]any

// call makes one call, and returns the descriptor that came with the reply: the caller's to close.
func call(method string, parameters object) (int, error) {
	path := "/run/nsbroker/io.nsbroker.Broker"
	if address := os.Getenv("NSBROKER_ADDRESS"); address != "" {
		path = strings.TrimPrefix(address, "unix:")
	}
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return -1, err
	}
	defer conn.Close()
	message, err := json.Marshal(object{"method": "io.nsbroker.Broker." + method, "parameters": parameters})
	if err != nil {
		return -1, err
	}
	if _, err := conn.Write(append(message, 0)); err != nil {
		return -1, err
	}
	reply, fd := []byte{}, -1
	part, control := make([]byte, 65537), make([]byte, syscall.CmsgSpace(4))
	for !bytes.HasSuffix(reply, []byte{0}) { // the descriptor comes with the first byte of the reply
		size, controlSize, _, _, err := conn.ReadMsgUnix(part, control)
		if err != nil {
			return -1, err
		}
		if size == 0 {
			return -1, io.ErrUnexpectedEOF
		}
		reply = append(reply, part[:size]...)
		if messages, err := syscall.ParseSocketControlMessage(control[:controlSize]); err == nil && len(messages) > 0 {
			if fds, err := syscall.ParseUnixRights(&messages[0]); err == nil && len(fds) > 0 {
				fd = fds[0]
			}
		}
	}
	if fd < 0 { // an error has no descriptor
		return -1, errors.New(strings.TrimRight(string(reply), "\x00"))
	}
	return fd, nil
}

func fetch(container string, port int, path string) error {
	target := object{"container": container}
	fd, err := call("OpenSocket", object{"target": target, "family": "inet", "type": "stream"})
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), "inside")
	defer file.Close()
	if err := syscall.Connect(fd, &syscall.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return err
	}
	conn, err := net.FileConn(file) // a duplicate
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.0\r\n\r\n", path); err != nil {
		return err
	}
	_, err = io.Copy(os.Stdout, conn)
	return err
}

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: fetch CONTAINER PORT PATH")
		os.Exit(2)
	}
	port, err := strconv.Atoi(os.Args[2])
	if err == nil {
		err = fetch(os.Args[1], port, os.Args[3])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
