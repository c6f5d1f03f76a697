// Java's JSSE: see tests/tests/clients/tls.rs for what it is asked and says.
import java.io.*;
import java.net.*;
import java.nio.file.*;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.*;
import javax.net.ssl.*;

public class Tls {
    public static void main(String[] words) throws Exception {
        InetAddress address = InetAddress.getByName(words[0]);
        int milliseconds = Integer.parseInt(words[2]) * 1000;
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null);
        try (InputStream file = new FileInputStream(words[1])) {
            CertificateFactory factory = CertificateFactory.getInstance("X.509");
            store.setCertificateEntry("ca", factory.generateCertificate(file));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance("PKIX");
        trust.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        List<Thread> threads = new ArrayList<>();
        for (String name : Files.readAllLines(Path.of(words[3]))) {
            Thread thread = new Thread(() -> System.out.println(ask(context, address, milliseconds, name)));
            thread.start();
            threads.add(thread);
        }
        for (Thread thread : threads) thread.join();
    }

    static String ask(SSLContext context, InetAddress address, int milliseconds, String name) {
        try (Socket plain = new Socket()) {
            plain.connect(new InetSocketAddress(address, 443), milliseconds);
            plain.setSoTimeout(milliseconds);
            SSLSocket s = (SSLSocket) context.getSocketFactory().createSocket(plain, name, 443, true);
            SSLParameters parameters = s.getSSLParameters();
            parameters.setServerNames(List.of(new SNIHostName(name)));
            parameters.setEndpointIdentificationAlgorithm("HTTPS");
            s.setSSLParameters(parameters);
            s.getOutputStream().write(("GET / HTTP/1.1\r\nHost: " + name + "\r\n\r\n").getBytes());
            String got = new String(s.getInputStream().readAllBytes());
            return (got.endsWith("reached\n") ? "served " : "odd ") + name;
        } catch (IOException e) {
            return "refused " + name + " " + e.getMessage();
        }
    }
}
