/* Asks the C library for the addresses of a name: `ask NAME`.
 *
 * Built with musl and nothing of the machine's own C library, see xtask/src/setup/clients.rs.
 * Lines: `address A` each, or `error NUMBER WORDS`; `ms N`, how long the library took. */
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>

static long long milliseconds(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

int main(int count, char **words)
{
	if (count != 2) {
		fprintf(stderr, "usage: ask NAME\n");
		return 2;
	}
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
	struct addrinfo *found = 0;
	long long start = milliseconds();
	int error = getaddrinfo(words[1], "80", &hints, &found);
	long long took = milliseconds() - start;
	if (error)
		printf("error %d %s\n", error, gai_strerror(error));
	for (struct addrinfo *one = error ? 0 : found; one; one = one->ai_next) {
		char text[INET6_ADDRSTRLEN];
		const void *at = one->ai_family == AF_INET
			? (const void *)&((struct sockaddr_in *)one->ai_addr)->sin_addr
			: (const void *)&((struct sockaddr_in6 *)one->ai_addr)->sin6_addr;
		printf("address %s\n", inet_ntop(one->ai_family, at, text, sizeof text));
	}
	printf("ms %lld\n", took);
	return 0;
}
