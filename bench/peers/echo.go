// Echo servers on Go's net package: TRANSPORT ADDRESS BUFFER TOUCHED_MB.
package main

import (
	"fmt"
	"log"
	"net"
	"os"
	"strconv"
)

func main() {
	if len(os.Args) != 5 {
		log.Fatal("usage: TRANSPORT ADDRESS BUFFER TOUCHED_MB")
	}
	transport, address := os.Args[1], os.Args[2]
	size, err := strconv.Atoi(os.Args[3])
	check(err)
	megabytes, err := strconv.Atoi(os.Args[4])
	check(err)
	touched := make([]byte, megabytes<<20)
	for i := range touched {
		touched[i] = 1
	}
	if transport == "udp" || transport == "unixgram" {
		socket, err := net.ListenPacket(transport, address)
		check(err)
		fmt.Println("listening on", socket.LocalAddr())
		datagrams(socket)
	} else {
		listener, err := net.Listen(transport, address)
		check(err)
		fmt.Println("listening on", listener.Addr())
		for {
			connection, err := listener.Accept()
			check(err)
			go stream(connection, size)
		}
	}
	fmt.Println(len(touched))
}

func stream(connection net.Conn, size int) {
	defer connection.Close()
	buffer := make([]byte, size)
	for {
		n, err := connection.Read(buffer)
		if err != nil {
			return
		}
		if _, err = connection.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func datagrams(socket net.PacketConn) {
	buffer := make([]byte, 65536)
	for {
		n, from, err := socket.ReadFrom(buffer)
		check(err)
		// A client that is gone; the load generator counts what it did not get.
		_, _ = socket.WriteTo(buffer[:n], from)
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
