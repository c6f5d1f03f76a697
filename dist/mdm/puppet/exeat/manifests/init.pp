# @summary Installs Exeat, puts policies in force and fails where the machine is not healthy.
#
# @param package_ensure `present`, `latest`, a version, or `absent`
# @param package_source a .deb or .rpm on the machine; otherwise its repositories are asked
# @param policies file name (without .yaml) and text of each policy
# @param exclusive other files in `policy_dir` are removed
# @param config text of the whole configuration; nothing: the package's own stays
# @param program where the program is
# @param config_file where the configuration is
# @param policy_dir where policies are
# @param options options of every call of the program
# @param health options of `exeat health`
# @param manage_package whether the package is this class's
# @param manage_service whether a service manager runs it
class exeat (
  String                             $package_ensure = 'present',
  Optional[String]                   $package_source = undef,
  Hash[Pattern[/\A[\w.-]+\z/], String] $policies     = {},
  Boolean                            $exclusive      = false,
  Optional[String]                   $config         = undef,
  String                             $program        = '/usr/bin/exeat',
  String                             $config_file    = '/etc/exeat/config.yaml',
  String                             $policy_dir     = '/etc/exeat/policy.d',
  Array[String]                      $options        = [],
  Array[String]                      $health         = [],
  Boolean                            $manage_package = true,
  Boolean                            $manage_service = true,
) {
  if $manage_package {
    package { 'exeat':
      ensure   => $package_ensure,
      source   => $package_source,
      provider => $package_source ? {
        /\.deb\z/ => 'dpkg',
        /\.rpm\z/ => 'rpm',
        default   => undef,
      },
    }
  }

  unless $package_ensure == 'absent' {
    File {
      owner => 'root',
      group => 'root',
    }

    if $manage_package {
      Package['exeat'] -> File[$policy_dir]
    }

    file { $policy_dir:
      ensure  => directory,
      mode    => '0755',
      recurse => $exclusive,
      purge   => $exclusive,
      notify  => Exec['exeat reload'],
    }

    $policies.each |$name, $text| {
      file { "${policy_dir}/${name}.yaml":
        content      => $text,
        mode         => '0644',
        # One with an error is not put in place.
        validate_cmd => "${program} check %",
        notify       => Exec['exeat reload'],
      }
    }

    if $config {
      file { $config_file:
        content => $config,
        mode    => '0644',
        require => File[$policy_dir],
        # It is read at the start only. Enforcement stands meanwhile.
        notify  => $manage_service ? {
          true  => Service['exeat'],
          false => undef,
        },
      }
    }

    if $manage_service {
      service { 'exeat':
        ensure  => running,
        enable  => true,
        require => File[$policy_dir],
        before  => Exec['exeat reload', 'exeat health'],
      }
    }

    exec { 'exeat reload':
      command     => [$program] + $options + ['reload'],
      refreshonly => true,
      before      => Exec['exeat health'],
    }

    # Fails the run where the machine is not healthy. It changes nothing, so that a run on a
    # healthy machine reports no change.
    exec { 'exeat health':
      command => [$program] + $options + ['health'] + $health,
      unless  => [[$program] + $options + ['health'] + $health],
    }
  }
}
