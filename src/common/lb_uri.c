/*
 * lb_uri.c
 *	  Parsing the addresses of memory nodes.
 */
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "lb_uri.h"

/* Longest path that fits a Unix socket's address, without the terminating zero. */
#define SOCKET_PATH_MAX (sizeof(((struct sockaddr_un *) NULL)->sun_path) - 1)

_Static_assert(SOCKET_PATH_MAX < LB_HOST_MAX, "lb_uri.path must hold every socket path");

static const char *const transport_names[] = {
	[LB_TRANSPORT_SHM] = "shm",
	[LB_TRANSPORT_TCP] = "tcp",
	[LB_TRANSPORT_RDMA] = "rdma",
};

const char *
lb_transport_name(lb_transport transport)
{
	return transport_names[transport];
}

static bool
parse_path(const char *text, const char *path, lb_uri *uri, lb_status *status)
{
	if (path[0] != '/' && strncmp(path, "./", 2) != 0)
		return lb_fail(
			status, LB_INVALID,
			"memory node address \"%.100s\": the path of a socket is absolute (shm:///path)", text);
	if (strlen(path) > SOCKET_PATH_MAX)
		return lb_fail(
			status, LB_INVALID,
			"memory node address \"%.100s...\": the path of a socket has at most %zu bytes", text,
			SOCKET_PATH_MAX);
	if (path[strlen(path) - 1] == '/')
		return lb_fail(status, LB_INVALID,
					   "memory node address \"%.100s\": the path names a folder", text);
	strcpy(uri->path, path);
	return true;
}

static bool
parse_port(const char *text, const char *port, bool for_listening, lb_uri *uri, lb_status *status)
{
	size_t digits = strspn(port, "0123456789");
	long number;

	if (digits == 0 || digits > 5 || port[digits] != '\0' || (number = atol(port)) > UINT16_MAX)
		return lb_fail(status, LB_INVALID, "memory node address \"%.100s\": bad port \"%.20s\"",
					   text, port);
	if (number == 0 && !for_listening)
		return lb_fail(status, LB_INVALID,
					   "memory node address \"%.100s\": port 0 is for listening only", text);
	uri->port = (uint16_t) number;
	return true;
}

/* "[address]:port", the address optionally with a zone ("%eth0"). Leaves *port at the colon. */
static bool
parse_ipv6(const char *text, const char *authority, lb_uri *uri, const char **port,
		   lb_status *status)
{
	const char *end = strchr(authority, ']');
	char address[LB_HOST_MAX];
	struct in6_addr parsed;
	size_t length;

	if (end == NULL)
		return lb_fail(status, LB_INVALID, "memory node address \"%.100s\": \"[\" without \"]\"",
					   text);
	length = (size_t) (end - authority) - 1;
	if (length >= sizeof(uri->host))
		return lb_fail(status, LB_INVALID, "memory node address \"%.100s\": the host is too long",
					   text);
	memcpy(uri->host, authority + 1, length);
	uri->host[length] = '\0';

	strcpy(address, uri->host);
	address[strcspn(address, "%")] = '\0';
	if (inet_pton(AF_INET6, address, &parsed) != 1)
		return lb_fail(status, LB_INVALID,
					   "memory node address \"%.100s\": \"%.60s\" is not an IPv6 address", text,
					   uri->host);
	*port = end + 1;
	return true;
}

/* "name:port" or "1.2.3.4:port". Leaves *port at the colon. */
static bool
parse_name(const char *text, const char *authority, bool for_listening, lb_uri *uri,
		   const char **port, lb_status *status)
{
	size_t length = strcspn(authority, ":");

	if (length == 0)
		return lb_fail(status, LB_INVALID, "memory node address \"%.100s\": the host is missing",
					   text);
	if (length >= sizeof(uri->host))
		return lb_fail(status, LB_INVALID, "memory node address \"%.100s\": the host is too long",
					   text);
	memcpy(uri->host, authority, length);
	uri->host[length] = '\0';
	*port = authority + length;

	if (strcmp(uri->host, "*") == 0)
	{
		if (!for_listening)
			return lb_fail(status, LB_INVALID,
						   "memory node address \"%.100s\": host \"*\" is for listening only",
						   text);
		return true;
	}
	if (strspn(uri->host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") !=
		length)
		return lb_fail(
			status, LB_INVALID,
			"memory node address \"%.100s\": bad character in host \"%.60s\" (an IPv6 address "
			"stands in brackets)",
			text, uri->host);
	return true;
}

static bool
parse_authority(const char *text, const char *authority, bool for_listening, lb_uri *uri,
				lb_status *status)
{
	const char *port;

	if (authority[0] == '[')
	{
		if (!parse_ipv6(text, authority, uri, &port, status))
			return false;
	}
	else if (!parse_name(text, authority, for_listening, uri, &port, status))
		return false;

	if (*port != ':')
		return lb_fail(status, LB_INVALID, "memory node address \"%.100s\": the port is missing",
					   text);
	return parse_port(text, port + 1, for_listening, uri, status);
}

bool
lb_uri_parse(const char *text, bool for_listening, lb_uri *uri, lb_status *status)
{
	size_t length = strlen(text);

	memset(uri, 0, sizeof(*uri));
	if (length >= sizeof(uri->text))
		return lb_fail(status, LB_INVALID,
					   "memory node address \"%.100s...\": longer than %zu bytes", text,
					   sizeof(uri->text) - 1);
	for (size_t i = 0; i < length; i++)
		if ((unsigned char) text[i] <= ' ' || text[i] == 0x7f)
			return lb_fail(status, LB_INVALID,
						   "memory node address \"%.*s\": a space or control character follows",
						   (int) (i < 100 ? i : 100), text);
	memcpy(uri->text, text, length + 1);

	for (int i = 0; i <= LB_TRANSPORT_RDMA; i++)
	{
		size_t name_length = strlen(transport_names[i]);

		if (strncmp(text, transport_names[i], name_length) != 0 ||
			strncmp(text + name_length, "://", 3) != 0)
			continue;
		uri->transport = (lb_transport) i;
		text += name_length + 3;
		if (uri->transport == LB_TRANSPORT_SHM)
			return parse_path(uri->text, text, uri, status);
		return parse_authority(uri->text, text, for_listening, uri, status);
	}
	return lb_fail(status, LB_INVALID,
				   "memory node address \"%.100s\": it begins with none of shm://, tcp://, rdma://",
				   text);
}
